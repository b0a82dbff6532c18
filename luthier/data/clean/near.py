"""Rows that say almost what an earlier one says: MinHash finds candidates (Broder 1997), their shingles make sure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Of, Said
from luthier.data.clean.duplicates import plain
from luthier.supplies import library
from luthier.system.files import scratch_database

PERMUTATIONS = 128
SHINGLE, WIDE_SHINGLE = 5, 2
"""Characters of a shingle, and where most characters are words of their own, as in Chinese."""
FACTORS = np.random.Generator(np.random.PCG64(0)).integers(1 << 62, dtype=np.uint64, size=SHINGLE + 1) * 2 + 1
"""Odd factors that make a number of a shingle's characters."""
KEPT_SHINGLES = 2000
"""Shingles of a row that are kept to compare it: those of smallest hash, a fair sample of longer rows."""


class NearDuplicates(CleanerSettings):
    """Drop rows whose text is almost that of an earlier one."""

    remembers: ClassVar[bool] = True
    type: Literal["near-duplicates"] = "near-duplicates"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of shingles that two rows have in common (Jaccard similarity) from which on one of them goes."""
    of: Of = "text"
    """What of a row is compared."""

    def build(self) -> Cleaner:
        """Load rensa."""
        return _Near(self.threshold, self.of)


class _Near(Cleaner):
    def __init__(self, threshold: float, of: str) -> None:
        self.of, self.index = of, Index(threshold)

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """What each row is like."""
        return self.index.sketches([getattr(row, self.of) for row in rows])

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """The first of rows that are alike stays."""
        return self.index.first(row.where, finding)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a text is like: hashes of its shingles `[n]`, smallest first; a number for each band of its MinHash."""

    shingles: NDArray[np.uint64]
    bands: tuple[int, ...]


class Index:
    """Texts by what they are like; on disk, where they are many."""

    def __init__(self, threshold: float) -> None:
        self.minhash, self.threshold = library("rensa", "near-duplicates", "clean").RMinHash, threshold
        self.bands = bands(threshold)
        self.kept = scratch_database(
            "CREATE TABLE text (id INTEGER PRIMARY KEY, name TEXT, shingles BLOB)",
            "CREATE TABLE band (key INTEGER, id INTEGER, PRIMARY KEY (key, id)) WITHOUT ROWID",
        )
        self.alike = (  # those with most bands in common; of texts that are all alike, so many are enough
            "SELECT name, shingles FROM text JOIN (SELECT id, COUNT(*) AS common FROM "
            "(SELECT id FROM band WHERE key IN (SELECT value FROM json_each(?)) LIMIT 4096) "
            "GROUP BY id ORDER BY common DESC, id LIMIT 64) USING (id) ORDER BY id"
        )

    def sketches(self, texts: Sequence[str]) -> list[Sketch]:
        """What texts are like."""
        if not texts:
            return []
        found = [shingles(text) for text in texts]
        ends = np.cumsum([0, *map(len, found)], dtype=np.uint64)
        flat = np.concatenate([*found, np.zeros(0, dtype=np.uint64)])
        rows = self.minhash.digest_matrix_from_flat_token_hashes(flat, ends, PERMUTATIONS, 42).to_rows()
        keys = np.asarray(rows, dtype=np.uint64).reshape(len(texts), self.bands, -1)
        folded = np.zeros(keys.shape[:2], dtype=np.uint64)
        for place in range(keys.shape[2]):
            folded = (folded ^ keys[:, :, place]) * FACTORS[place % len(FACTORS)]
        folded = (folded ^ np.arange(self.bands, dtype=np.uint64)) * FACTORS[0]  # bands are told apart
        return [
            Sketch(own, tuple(numbers) if len(own) else ())
            for own, numbers in zip(found, folded.view(np.int64).tolist(), strict=True)
        ]

    def match(self, text: Sketch) -> tuple[float, str | None]:
        """How alike the most similar text is, and its name; None where none is alike enough."""
        near = self.kept.execute(self.alike, (json.dumps(text.bands),)) if text.bands else ()
        share, name = 0.0, None
        for other, blob in near:
            own = jaccard(text.shingles, np.frombuffer(blob, dtype=np.uint64))
            share, name = (own, other) if own > share else (share, name)
        return share, name if share >= self.threshold else None

    def first(self, name: str, text: Sketch) -> Drop | None:
        """Remember the first of texts that are alike, and drop the others."""
        share, other = self.match(text)
        if other is not None:
            return Drop("near-duplicate", share, self.threshold, f"is {100 * share:.0f} % of what {other} says")
        self.add(name, text)
        return None

    def add(self, name: str, text: Sketch) -> None:
        """Remember a text."""
        if text.bands:
            row = self.kept.execute("INSERT INTO text VALUES (NULL, ?, ?)", (name, text.shingles.tobytes())).lastrowid
            self.kept.executemany("INSERT OR IGNORE INTO band VALUES (?, ?)", [(key, row) for key in text.bands])


def bands(threshold: float) -> int:
    """Bands of the index that find rows of this similarity with a probability of 0.999, and few others."""
    counts = [1 << power for power in range(PERMUTATIONS.bit_length())]
    found = (count for count in counts if 1 - (1 - threshold ** (PERMUTATIONS // count)) ** count >= 0.999)
    return next(found, PERMUTATIONS)


def shingles(text: str) -> NDArray[np.uint64]:
    """Hashes `[n]` of all pieces of a text, smallest first."""
    text = plain(text)
    wide = 0 if text.isascii() else sum("\u3040" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" for c in text)
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
