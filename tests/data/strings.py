"""Awkward strings of our own making: what programs tend to change, cut, take for something else, or run."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

GIVEN = json.loads((Path(__file__).parent / "awkward.json").read_text(encoding="utf-8"))
CONTROLS = "".join(chr(n) for n in range(1, 32)) + "\x7f" + "".join(chr(n) for n in range(128, 160))


def awkward() -> list[str]:
    """At least 500 strings, none twice, none empty."""
    found = [*GIVEN["look_like"], *GIVEN["scripts"]]
    for character in GIVEN["spaces"] + GIVEN["invisible"] + CONTROLS:
        found += [f"a{character}b", f"{character}a", f"a{character}", f"a{character}{character}b"]
    for text in GIVEN["scripts"]:
        found += [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    found += [chr(n) for n in (0x300, 0x10FFFF, 0xE000, 0xFDD0, 0xFFFE, 0xFFFF, 0x1FFFF, 0xD7FF, 0x80, 0x7FF, 0x800)]
    found += ["a\r\nb", "a\n\rb", "a\n\n\nb", "\n a \n", "x" * 10_000, "é" * 5_000, "\U0001f600" * 3_000, '"' * 999]
    found += ["\\" * n for n in (1, 2, 3, 99)] + [
        'a "quoted", text',
        "a\tb\tc",
        " ",
        "  a  ",
        '","',
        '"\n"',
        "a\u2028b\r",
    ]
    return list(dict.fromkeys(text for text in found if text))
