"""Rows that say what an earlier row says: exactly, or but for case, spaces and punctuation; and rows of other files."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from luthier.data.clean.base import Cleaner, CleanerSettings, Said, Verdict


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

    def judge(self, row: Said, finding: Any) -> Verdict | None:
        """The first of equal rows stays."""
        first = self.first.setdefault(finding, row.where)
        return None if first == row.where else Verdict("duplicate", 1.0, 1.0, f"says what {first} says")


def plain(text: str) -> str:
    """A text without what does not change what it says: case, width and kind of spaces, punctuation at word borders."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = ("".join(c for c in word if c.isalnum() or c in "+-*/=<>%$#@_") for word in folded.split())
    return " ".join(word for word in words if word) or folded


def digest(text: str) -> int:
    """Eight bytes of a text, as a number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
