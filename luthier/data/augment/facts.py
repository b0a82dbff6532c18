"""What no rewriting may touch: code, addresses, placeholders, numbers, quotations, names; sentences; lists of words."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

from luthier.data.clean.repair import CODE
from luthier.supplies import shipped

_PATTERNS: dict[str, str] = shipped("luthier.data.augment", "facts.yaml")
FACTS = {kind: re.compile(_PATTERNS[kind]) for kind in ("address", "placeholder", "number")}
FACTS = {"code": re.compile(f"{CODE.pattern}|{_PATTERNS['code']}", CODE.flags)} | FACTS
"""What must be in both texts alike, in the order in which it is looked for."""
QUOTED = re.compile(_PATTERNS["quoted"])
OPTION = re.compile(r"^[ \t]*\(?[A-Za-z][.)][ \t][^\n]*$", re.MULTILINE)
"""An answer to choose: `A. Paris`."""
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
BEGINNING = re.compile(r"(?:^|[.!?:…。！？：\n])[^\w\0]*$")
"""What stands before a word with which a sentence begins."""
BEFORE = 20
"""Characters before a word that are looked at."""
NEXT = re.compile(r"[ \0]*(.)")
END = re.compile(r"(?<=[^\W\d_]{2}[.!?])[ \t]+(?=[^\Wa-z_])|(?<=[。！？])(?!$|[”」』）])")
"""Where a sentence ends; not behind an initial or a number."""


def facts(text: str) -> Counter[tuple[str, str]]:
    """What a text says of each kind, and how often. Names are capitalised words but those that begin a sentence."""
    found: Counter[tuple[str, str]] = Counter()
    for kind, pattern in FACTS.items():
        found.update((kind, match.group()) for match in pattern.finditer(text))
        text = _without(text, pattern)
    found.update(("name", word.group()) for word in WORD.finditer(text) if _name(text, word))
    return found


def open_text(text: str) -> str:
    """A text, as long as it was, with NUL in place of what must stay: facts, quotations, answers to choose."""
    for pattern in FACTS.values():
        text = _without(text, pattern)
    names = [word.span() for word in WORD.finditer(text) if _name(text, word) or _begins_name(text, word)]
    characters = list(text)
    for start, end in names:
        characters[start:end] = "\0" * (end - start)
    return _without(_without("".join(characters), QUOTED), OPTION)


def sentences(line: str) -> list[str]:
    """The sentences of a line, each with its end and without the spaces behind it."""
    found: list[str] = []
    for part in END.split(line):
        if found and found[-1].rstrip(".").rpartition(" ")[2].lower() in words_of("abbreviations"):
            found[-1] += f" {part}"
        elif part:
            found.append(part)
    return found


@cache
def words_of(*path: str) -> frozenset[str]:
    """A list of lists.yaml, whose lines hold several words each."""
    found: Any = shipped("luthier.data.augment", "lists.yaml")
    for key in path:
        found = found[key]
    return frozenset(word for line in found for word in line.split())


def _without(text: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: "\0" * len(match.group()), text)


def _name(text: str, word: re.Match[str]) -> bool:
    """Whether a word is capitalised within a sentence."""
    before = text[max(0, word.start() - BEFORE) : word.start()]
    return any(map(str.isupper, word.group())) and not BEGINNING.search(before)


def _begins_name(text: str, word: re.Match[str]) -> bool:
    """Whether a capitalised word is followed by another one."""
    after = NEXT.match(text, word.end())
    return word.group()[0].isupper() and after is not None and after.group(1).isupper()
