"""Rows in other languages than those that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Said, Verdict
from luthier.data.language import language

ENOUGH = 20
"""Letters of a Latin script below which a language is not told; other scripts tell it sooner."""


class Language(CleanerSettings):
    """Keep rows in some languages. What is too short to tell, or code, stays."""

    type: Literal["language"] = "language"
    keep: Annotated[list[str], Field(min_length=1)]
    """ISO 639-1 codes."""
    likely: Annotated[float, Field(gt=0, le=1)] = 0.9
    """How likely another language must be for a row to go."""
    of: Literal["text", "question", "answer"] = "answer"
    """What of a row is looked at."""

    def build(self) -> Cleaner:
        """Load py3langid."""
        language("a")
        return _Language(self)


class _Language(Cleaner):
    def __init__(self, settings: Language) -> None:
        self.settings = settings

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """Language and how likely it is."""
        return [self._told(getattr(row, self.settings.of)) for row in rows]

    def _told(self, text: str) -> tuple[str, float]:
        letters = sum(c.isalpha() for c in text)
        short = letters < ENOUGH and text.isascii()
        return ("", 0.0) if short or "```" in text else language(text)

    def judge(self, row: Said, finding: Any) -> Verdict | None:
        """Nothing is remembered."""
        code, likely = finding
        if not code or code in self.settings.keep or likely < self.settings.likely:
            return None
        kept = ", ".join(self.settings.keep)
        return Verdict("language", likely, self.settings.likely, f"is in {code}, and {kept} is kept")
