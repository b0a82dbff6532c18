"""Rows in other languages than those that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Of, Said
from luthier.data.language import languages

ENOUGH = 20
"""Letters of a Latin script below which a language is not told; other scripts tell it sooner."""
TOLD = 0.5
"""How likely the likeliest language must be; else none is told."""


class Language(CleanerSettings):
    """Keep rows in some languages. What is too short to tell, or code, stays."""

    type: Literal["language"] = "language"
    keep: Annotated[list[str], Field(min_length=1)]
    """ISO 639-1 codes."""
    likely: Annotated[float, Field(gt=0, le=1)] = 0.9
    """How likely a row must be in none of them to go."""
    of: Of = "answer"
    """What of a row is looked at."""

    def build(self) -> Cleaner:
        """Load py3langid."""
        languages("a")
        return self

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """The likeliest language of each row, and how likely it is in none of those that are kept."""
        return [self._told(getattr(row, self.of)) for row in rows]

    def _told(self, text: str) -> tuple[str, float]:
        letters = sum(c.isalpha() for c in text)
        if (letters < ENOUGH and text.isascii()) or "```" in text:
            return "", 0.0
        likely = languages(text)
        code = max(likely, key=likely.__getitem__, default="")
        if likely.get(code, 0) < TOLD:  # names, numbers, formulas
            return "", 0.0
        return code, 1 - sum(likely.get(kept, 0) for kept in self.keep)

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """Nothing is remembered."""
        code, foreign = finding
        if not code or code in self.keep or foreign < self.likely:
            return None
        kept = ", ".join(self.keep)
        return Drop("language", foreign, self.likely, f"is in {code}, and {kept} is kept")
