"""Rows that say almost what an earlier one says: MinHash finds candidates (Broder 1997), their shingles make sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Said, Verdict
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
        try:
            import rensa
        except ImportError:
            raise MissingExtra("near-duplicates", "rensa", "clean") from None
        self.rensa, self.threshold, self.of = rensa, threshold, of
        self.index = rensa.RMinHashLSH(threshold, PERMUTATIONS, bands(threshold))
        self.rows: list[tuple[str, Any]] = []

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """The hashes of each row's shingles, smallest first."""
        return [shingles(getattr(row, self.of)) for row in rows]

    def judge(self, row: Said, finding: Any) -> Verdict | None:
        """The first of rows that are alike stays."""
        if not len(finding):
            return None
        sketch = self.rensa.RMinHash(PERMUTATIONS, 42)
        sketch.update([value.tobytes() for value in finding])
        best, alike = 0.0, ""
        for number in self.index.query(sketch):
            share = jaccard(finding, self.rows[number][1])
            if share > best:
                best, alike = share, self.rows[number][0]
        if best >= self.threshold:
            return Verdict("near-duplicate", best, self.threshold, f"is {100 * best:.0f} % of what {alike} says")
        self.index.insert(len(self.rows), sketch)
        self.rows.append((row.where, finding))
        return None


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
