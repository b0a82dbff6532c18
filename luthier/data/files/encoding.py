"""Which encoding some bytes are in that are not UTF-8: GB18030, or the Western one, or neither can be told.

Almost any bytes are *some* text in almost any encoding, so each of the two must look like what it is used for. Korean
and Japanese bytes are also Chinese characters, and Czech ones also Western letters: which ones gives them away.
"""

from __future__ import annotations

import codecs
import re

from luthier.supplies import shipped

MARKS = (
    ("utf-8", codecs.BOM_UTF8),
    ("utf-32-le", codecs.BOM_UTF32_LE),  # before UTF-16, whose mark is its beginning
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
)
HIGH = re.compile(rb"[\x80-\xff]+")
_WORDS = shipped("luthier.data.files", "encodings.yaml")
FREQUENT = frozenset(_WORDS["frequent"])
"""Characters that make up most of Chinese writing."""
LETTERS: dict[str, str] = _WORDS["letters"]
"""Letters beyond ASCII, by language."""
MARKS_OF_TEXT = frozenset("‘’“”„–—…«»‹›€£°§·•©®™¡¿ªº²½\xa0")
FEWEST = 3
"""Letters, or Chinese characters, below which nothing can be told."""
ONE_LANGUAGE = 0.98
"""Share of letters that must be one language's."""
LIKELY = 0.95
"""Share of characters beyond ASCII that must be usual ones."""
COMMON = 0.3
"""Share of Chinese characters that must be frequent ones; in Chinese text it is above half."""


class Undecided(Exception):
    """More than one encoding would do, or none."""


def byte_order_mark(raw: bytes) -> tuple[str | None, bytes]:
    """The encoding that the first bytes name, and its mark; of UTF-16 without one, what its zeros tell."""
    for encoding, mark in MARKS:
        if raw.startswith(mark):
            return encoding, mark
    head = raw[:4096]
    if len(head) >= 4 and b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        most = len(head) // 2
        if odd > 0.3 * most and not even:
            return "utf-16-le", b""
        if even > 0.3 * most and not odd:
            return "utf-16-be", b""
    return None, b""


def guess(raw: bytes) -> str:
    """The encoding of bytes that are not UTF-8.

    Raises:
        Undecided: with what they would be in each.
    """
    runs = HIGH.findall(raw)
    whole = sum(run.decode("utf-8", errors="ignore").encode() == run for run in runs)
    if 2 * whole >= len(runs):
        raise Undecided("most of it is; mend that place, or name its encoding")
    fits = {"gb18030": _chinese(raw), "cp1252": _western(raw, runs)}
    good = [encoding for encoding, fit in fits.items() if fit]
    if len(good) == 1:
        return good[0]
    first = HIGH.search(raw)
    start = max(0, first.start() - 8) if first else 0
    shown = ", ".join(f"{encoding}: {_shown(raw[start : start + 40], encoding)!r}" for encoding in fits)
    raise Undecided(f"name its encoding, for example {{path: ..., encoding: gb18030}} (it would be {shown})")


def _shown(raw: bytes, encoding: str) -> str:
    return raw.decode(encoding, errors="replace").replace("\n", " ")


def _wide(raw: bytes, encoding: str) -> list[str]:
    """What is not ASCII, decoded strictly but for a character that the end cuts; nothing where that cannot be."""
    try:
        return [c for c in codecs.getincrementaldecoder(encoding)().decode(raw) if not c.isascii()]
    except UnicodeDecodeError:
        return []


def _chinese(raw: bytes) -> bool:
    wide = _wide(raw, "gb18030")
    han = [c for c in wide if "\u4e00" <= c <= "\u9fff"]
    usual = len(han) + sum(c in "，。！？；：“”‘’（）《》、…—·～【】　" or "\uff00" <= c <= "\uffef" for c in wide)
    frequent = sum(c in FREQUENT for c in han)
    return len(han) >= FEWEST and usual >= LIKELY * len(wide) and frequent >= COMMON * len(han)


def _western(raw: bytes, runs: list[bytes]) -> bool:
    wide = _wide(raw, "cp1252")
    letters = [c.lower() for c in wide if c not in MARKS_OF_TEXT]
    most = max(sum(c in language for c in letters) for language in LETTERS.values())
    short = sum(len(run) <= 2 for run in runs)
    return len(letters) >= FEWEST and most >= ONE_LANGUAGE * len(letters) and short >= LIKELY * len(runs)
