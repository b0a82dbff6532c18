"""Rows that say what an earlier row says: exactly, or but for case, spaces and punctuation; and rows of other files."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said

SIGNS = frozenset("+-*/%#@_&\\")
"""Punctuation that says something beside a word or a number."""


class Duplicates(CleanerSettings):
    """Drop rows that say the same as an earlier one."""

    type: Literal["duplicates"] = "duplicates"
    exact: bool = False
    """Whether case, spaces and punctuation count."""

    def build(self) -> Cleaner:
        """Nothing to load."""
        return _Duplicates(exact=self.exact)


class _Duplicates(Cleaner):
    """Remembers eight bytes of each row; two rows meet by chance at one in 2^64."""

    def __init__(self, *, exact: bool) -> None:
        self.exact, self.first = exact, dict[int, str]()

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """What makes a row equal to another."""
        return [int(row.content.content_id, 16) if self.exact else digest(plain(row.text)) for row in rows]

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """The first of equal rows stays."""
        first = self.first.get(finding)
        if first is None:  # never by where it stands: rows of an array may share a line
            self.first[finding] = row.where
            return None
        return Drop("duplicate", 1.0, 1.0, f"says what {first} says")


def plain(text: str) -> str:
    """A text without what does not change what it says: case, width and kind of spaces, punctuation around words.

    What stands inside a word stays (1.5 is not 15), signs do (-1), and so does what is no punctuation: vowel signs,
    exponents, emoji.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(map(_usual_width, text)))
    folded = text.casefold()
    words = (_bare(word) for word in folded.split())
    return " ".join(word for word in words if word) or folded


def _usual_width(c: str) -> str:
    wide = unicodedata.decomposition(c).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", c) if wide else c


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and _punctuation(word[start]):
        start += 1
    while start < end and _punctuation(word[end - 1]):
        end -= 1
    return word[start:end]


def _punctuation(c: str) -> bool:
    return unicodedata.category(c)[0] == "P" and c not in SIGNS


def digest(text: str) -> int:
    """Eight bytes of a text, as a number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
