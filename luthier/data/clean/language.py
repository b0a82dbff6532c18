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
        """Rows in other languages."""
        return [self._foreign(getattr(row, self.of)) for row in rows]

    def _foreign(self, text: str) -> Drop | None:
        letters = sum(c.isalpha() for c in text)
        if (letters < ENOUGH and text.isascii()) or "```" in text:
            return None
        likely = languages(text)
        code = max(likely, key=likely.__getitem__, default="")
        told = likely.get(code, 0) >= TOLD  # else names, numbers, formulas
        foreign = 1 - sum(likely.get(kept, 0) for kept in self.keep)
        if not told or code in self.keep or foreign < self.likely:
            return None
        return Drop("language", foreign, self.likely, f"is in {code}, and {', '.join(self.keep)} is kept")
