"""Rows by what they mean, as vectors: duplicates in other words, and new rows that have left their parents' meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from luthier.data.augment.base import Guard, GuardSettings, Pair, compared
from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Of, Said

BLOCK = 4096
"""Vectors that are compared at once."""


class Encoded(Cleaner):
    """A cleaner that compares texts as vectors."""

    def __init__(self, model: str) -> None:
        from luthier.models.embed import Embedder

        self.embedder = Embedder.load(model)

    def close(self) -> None:
        """Let go of the encoder."""
        type(self.embedder).load.cache_clear()


class SameMeaning(CleanerSettings):
    """Drop rows whose question and answer mean what those of an earlier row mean, in whatever words.

    Each row is compared with all that stay, exactly: N rows take N * N / 2 products and N * 1.5 kB (of minilm-l6-v2).
    """

    type: Literal["same-meaning"] = "same-meaning"
    remembers: ClassVar[bool] = True
    heavy: ClassVar[bool] = True
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Cosine of two rows' vectors from which on the later one goes; rows with other numbers are never the same."""
    model: str = "minilm-l6-v2"
    """The model that turns texts into vectors."""

    def build(self) -> Cleaner:
        """Load the model."""
        return _SameMeaning(self)


class _SameMeaning(Encoded):
    def __init__(self, settings: SameMeaning) -> None:
        super().__init__(settings.model)
        self.threshold = settings.threshold
        self.blocks: list[Any] = []
        self.rows: list[tuple[str, list[str]]] = []

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """The vector of each row `[D]`."""
        return list(self.embedder.encode([f"{row.question}\n{row.answer}" for row in rows]))

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """The first of rows that mean the same stays."""
        figures = re.findall(r"\d+", f"{row.question}\n{row.answer}")  # of which a vector says little
        alike = [block @ finding for block in self.blocks]
        near = np.concatenate(alike)[: len(self.rows)] if alike else np.zeros(0)
        for place in np.flatnonzero(near >= self.threshold):
            other, its_figures = self.rows[place]
            if its_figures == figures:
                detail = f"means what {other} means (cosine {near[place]:.3f})"
                return Drop("same-meaning", float(near[place]), self.threshold, detail)
        if len(self.rows) % BLOCK == 0:
            self.blocks.append(np.zeros((BLOCK, len(finding)), dtype=np.float32))
        self.blocks[-1][len(self.rows) % BLOCK] = finding
        self.rows.append((row.where, figures))
        return None


class Meaning(GuardSettings):
    """Refuse new rows that mean something else than what they were made from, or say nothing new."""

    type: Literal["meaning"] = "meaning"
    least: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """Lowest cosine of the vectors of a new row and of what it was made from."""
    most: Annotated[float, Field(ge=-1, le=1)] = 0.995
    """Highest cosine."""
    of: Of = "question"
    """What of them is compared, since most ways to make rows change the question; rows without turns whole."""
    model: str = "minilm-l6-v2"
    """The model that turns texts into vectors."""

    @model_validator(mode="after")
    def _ordered(self) -> Meaning:
        if self.least >= self.most:
            raise ValueError(f"least ({self.least:g}) must be below most ({self.most:g})")
        return self

    def build(self) -> Guard:
        """Load the model."""
        return _Meaning(self)


class _Meaning(Guard):
    def __init__(self, settings: Meaning) -> None:
        from luthier.models.embed import Embedder

        self.settings, self.embedder = settings, Embedder.load(settings.model)

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Drop | None]:
        """Each candidate against its own parent."""
        of = self.settings.of
        before = self.embedder.encode([compared(pair.parent, of) for pair in pairs])
        after = self.embedder.encode([compared(pair.candidate, of) for pair in pairs])
        return [self._judged(float(cosine)) for cosine in (before * after).sum(1)]

    def _judged(self, cosine: float) -> Drop | None:
        least, most = self.settings.least, self.settings.most
        if cosine < least:
            return Drop(
                "other-meaning", cosine, least, f"means something else (cosine {cosine:.3f}, at least {least:g})"
            )
        if cosine > most:
            return Drop("nothing-new", cosine, most, f"says nothing new (cosine {cosine:.3f}, at most {most:g})")
        return None
