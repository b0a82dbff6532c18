"""Rows that say what an earlier row says: exactly, or but for case, spaces and punctuation; and rows of other files."""

from __future__ import annotations

import hashlib
import string
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.system.files import scratch_database

SIGNS = frozenset("+-*/%#@_&\\")
"""Punctuation that says something beside a word or a number."""

ASCII = "".join(c for c in string.punctuation if unicodedata.category(c)[0] == "P" and c not in SIGNS)


class Duplicates(CleanerSettings):
    """Drop rows that say the same as an earlier one."""

    remembers: ClassVar[bool] = True
    type: Literal["duplicates"] = "duplicates"
    exact: bool = False
    """Whether case, spaces and punctuation count."""

    def build(self) -> Cleaner:
        """Nothing to load."""
        return _Duplicates(exact=self.exact)


class _Duplicates(Cleaner):
    """Remembers eight bytes of each row, on disk where they are many; two rows meet by chance at one in 2^64."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.seen = scratch_database("CREATE TABLE seen (digest INTEGER PRIMARY KEY, place TEXT)")

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """What makes a row equal to another."""
        return [digest(row.content.content_id if self.exact else plain(row.text)) for row in rows]

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """The first of equal rows stays."""
        new = self.seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (finding, row.where)).rowcount
        if new:  # never told by where it stands: rows of an array may share a line
            return None
        (first,) = self.seen.execute("SELECT place FROM seen WHERE digest = ?", (finding,)).fetchone()
        return Drop("duplicate", 1.0, 1.0, f"says what {first} says")


def plain(text: str) -> str:
    """A text without what does not change what it says: case, width and kind of spaces, punctuation around words.

    What stands inside a word stays (1.5 is not 15), signs do (-1), and so does what is no punctuation: vowel signs,
    exponents, emoji.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(map(_usual_width, text)))
    folded = text.casefold()
    marks = ASCII if folded.isascii() else _punctuation()
    words = (word.strip(marks) for word in folded.split())
    return " ".join(word for word in words if word) or folded


def _usual_width(c: str) -> str:
    wide = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", c) if wide else c


@cache
def _punctuation() -> str:
    """All of Unicode's punctuation, without signs."""
    every = map(chr, range(sys.maxunicode + 1))
    return "".join(c for c in every if unicodedata.category(c)[0] == "P" and c not in SIGNS)


def digest(text: str) -> int:
    """Eight bytes of a text, as a signed number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
