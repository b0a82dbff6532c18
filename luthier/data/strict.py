"""JSON as RFC 8259 has it, for files and for JSON inside a row's strings. Knows neither files nor rows.

What Python's own reader lets pass and would be lost or break much later is refused: duplicate keys, NaN, numbers that
no float holds, half characters, and nesting that only recursion could follow.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

MAX_DEPTH = 100
"""Deepest nesting of arrays and objects. Templates and digests walk values recursively, so a bound must be near."""

MAX_DIGITS = 4300
"""Longest integer; Python itself reads and prints no longer ones."""


class StrictDecoder(json.JSONDecoder):
    """`decode` and `raw_decode` of the standard library; ValueError with a sentence for whatever is not strict."""

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_printable
        )

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """The value that starts at `idx`, and where it ends."""
        try:
            value, end = super().raw_decode(s, idx)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if s.count("[", idx, end) + s.count("{", idx, end) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
            raise ValueError(f"nested too deeply (more than {MAX_DEPTH} levels)")
        if s.find("\\u", idx, end) >= 0:  # only an escape can name half a character
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("a string holds a lone surrogate (half of a character)") from None
        return value, end


def read_json(text: str) -> Any:
    """The value of a string that holds JSON; raises ValueError with a sentence."""
    return StrictDecoder().decode(text)


def listed(value: Any) -> Any:
    """The JSON list or object that a string spells, as it must in a cell of a table; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return read_json(value)
        except ValueError:
            return value
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is given twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def _printable(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is too long; write it as a string")
    return int(digits)


def _deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects are nested more than so many levels; level by level, without recursion."""
    level = [value]
    for _ in range(levels):
        inner = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return False
    return True
