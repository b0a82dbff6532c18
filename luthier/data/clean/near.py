"""Rows that say almost what an earlier one says: MinHash finds candidates (Broder 1997), their shingles make sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.data.clean.duplicates import plain
from luthier.errors import MissingExtra

PERMUTATIONS = 128
SHINGLE, WIDE_SHINGLE = 5, 2
"""Characters of a shingle, and where most characters are words of their own, as in Chinese."""
FACTORS = np.random.Generator(np.random.PCG64(0)).integers(1 << 62, dtype=np.uint64, size=SHINGLE + 1) * 2 + 1
"""Odd factors that make a number of a shingle's characters."""
KEPT_SHINGLES = 2000
"""Shingles of a row that are kept to compare it: those of smallest hash, a fair sample of longer rows."""


class NearDuplicates(CleanerSettings):
    """Drop rows whose text is almost that of an earlier one."""

    type: Literal["near-duplicates"] = "near-duplicates"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of shingles that two rows have in common (Jaccard similarity) from which on one of them goes."""
    of: Literal["text", "question", "answer"] = "text"
    """What of a row is compared."""

    def build(self) -> Cleaner:
        """Load rensa."""
        return _Near(self.threshold, self.of)


class _Near(Cleaner):
    def __init__(self, threshold: float, of: str) -> None:
        self.of, self.index = of, Index(threshold)

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """The hashes of each row's shingles, smallest first."""
        return [shingles(getattr(row, self.of)) for row in rows]

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """The first of rows that are alike stays."""
        share, other = self.index.match(finding)
        if other is None:
            self.index.add(row.where, finding)
            return None
        detail = f"is {100 * share:.0f} % of what {other} says"
        return Drop("near-duplicate", share, self.index.threshold, detail)


class Index:
    """Texts by what they are like."""

    def __init__(self, threshold: float) -> None:
        try:
            import rensa
        except ImportError:
            raise MissingExtra("near-duplicates", "rensa", "clean") from None
        self.rensa, self.threshold = rensa, threshold
        self.found = rensa.RMinHashLSH(threshold, PERMUTATIONS, bands(threshold))
        self.rows: list[tuple[str, Any]] = []

    def match(self, finding: Any) -> tuple[float, str | None]:
        """How alike the most similar text is, and its name; None where none is alike enough."""
        near = self.found.query(self._sketch(finding)) if len(finding) else ()
        alike = [(jaccard(finding, self.rows[number][1]), number) for number in near]
        share, number = max(alike, default=(0.0, -1))
        return share, self.rows[number][0] if share >= self.threshold else None

    def add(self, name: str, finding: Any) -> None:
        """Remember a text."""
        if len(finding):
            self.found.insert(len(self.rows), self._sketch(finding))
            self.rows.append((name, finding))

    def _sketch(self, finding: Any) -> Any:
        sketch = self.rensa.RMinHash(PERMUTATIONS, 42)
        sketch.update([value.tobytes() for value in finding])
        return sketch


def bands(threshold: float) -> int:
    """Bands of the index that find rows of this similarity with a probability of 0.999, and few others."""
    for power in range(8):
        count = 1 << power
        rows = PERMUTATIONS // count
        if 1 - (1 - threshold**rows) ** count >= 0.999:
            return count
    return PERMUTATIONS


def shingles(text: str) -> Any:
    """Hashes `[n]` of all pieces of a text, smallest first."""
    text = plain(text)
    wide = sum("\u3040" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" for c in text)
    size = min(WIDE_SHINGLE if 2 * wide > len(text) else SHINGLE, max(len(text), 1))
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if not len(codes):
        return codes
    hashes = np.lib.stride_tricks.sliding_window_view(codes, size) @ FACTORS[:size]
    hashes = (hashes ^ (hashes >> np.uint64(32))) * FACTORS[-1]
    return np.unique(hashes ^ (hashes >> np.uint64(29)))[:KEPT_SHINGLES]


def jaccard(one: Any, other: Any) -> float:
    """What two sets have in common, as a share of both together; of samples, an estimate."""
    if len(one) == KEPT_SHINGLES or len(other) == KEPT_SHINGLES:
        both = np.union1d(one, other)[:KEPT_SHINGLES]
        return float(np.isin(both, one).astype(int) @ np.isin(both, other).astype(int)) / len(both)
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(len(one) + len(other) - common, 1)
