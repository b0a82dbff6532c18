"""Text that programs broke: wrong encodings (ftfy), invisible characters, remains of HTML, spaces, open code fences.

Also brackets that JSON lacks, where only one mending makes it valid, and turns in an order that no row may have.

Code is left as it is, wherever a text marks it; and so is whatever a script needs: joiners in Persian and in emoji.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, strings
from luthier.data.strict import read_json
from luthier.supplies import library, shipped

Fault = Literal["encoding", "unicode", "invisible", "html", "spaces", "fences", "brackets", "turns"]
PATTERNS: dict[str, re.Pattern[str]] = {
    name: re.compile(one) for name, one in shipped("luthier.data.clean", "repair.yaml").items()
}
CODE = PATTERNS["code"]
PAIRS = {"{": "}", "[": "]"}
TALKS = ("messages", "conversations", "conversation")
"""Keys under which turns are."""
SPEAKERS = frozenset({"system", "user", "human", "assistant", "gpt"})
"""Who may not speak twice in a row; a tool may."""
SEEN_TAGS = 2
"""Tags, or entities, from which on a text is taken for remains of a page, and not for a text about HTML."""


class Repair(CleanerSettings):
    """Mend what programs broke in a text; what it says stays."""

    type: Literal["repair"] = "repair"
    only: list[Fault] = Field(default=["encoding", "unicode", "invisible", "html", "spaces", "fences", "brackets"])
    """What is mended; `turns` besides: empty turns go, the system's comes first, two of one speaker become one."""

    def build(self) -> Cleaner:
        """Load ftfy."""
        return _Repair(self.only)


class _Repair(Cleaner):
    def __init__(self, only: list[Fault]) -> None:
        prose: dict[Fault, Callable[[str], str]] = {
            "encoding": _encoding(), "unicode": partial(unicodedata.normalize, "NFC"), "invisible": _invisible,
            "html": _html, "spaces": _spaces,
        }  # fmt: skip
        self.prose, self.only = [prose[fault] for fault in prose if fault in only], only

    def mend_row(self, value: Any) -> Any:
        """Every string mended, then the order of turns."""
        value = strings(value, self.mend)
        if "turns" not in self.only or not isinstance(value, dict):
            return value
        return {key: ordered(one) if key in TALKS else one for key, one in value.items()}

    def mend(self, text: str) -> str:
        """Prose mended, code as it was, and its last fence closed."""
        brackets = "brackets" in self.only
        if "fences" in self.only:
            text = closed(text)
        if brackets and text.lstrip()[:1] in ("{", "["):
            text = balanced(text)
        pieces, end = [], 0
        for code in CODE.finditer(text):
            said = PATTERNS["json_block"].sub(_balanced_block, code.group()) if brackets else code.group()
            pieces += [self._prose(text[end : code.start()]), said]
            end = code.end()
        mended = "".join([*pieces, self._prose(text[end:])])
        return mended.rstrip(" \t") if "spaces" in self.only else mended

    def _prose(self, text: str) -> str:
        for step in self.prose:
            text = step(text)
        return text


def _encoding() -> Callable[[str], str]:
    ftfy = library("ftfy", "repair", "clean")
    settings = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=True, fix_encoding=True, fix_latin_ligatures=False,
        fix_character_width=False, uncurl_quotes=False, fix_line_breaks=False, fix_surrogates=True,
        remove_control_chars=False, normalization=None,
    )  # fmt: skip
    # in ASCII there is nothing to mend but what ftfy takes from terminals
    return lambda text: text if text.isascii() and "\x1b" not in text else str(ftfy.fix_text(text, settings))


def _invisible(text: str) -> str:
    return PATTERNS["lone_joiner"].sub("", PATTERNS["invisible"].sub("", text))


def _html(text: str) -> str:
    if len(PATTERNS["tag"].findall(text)) + len(PATTERNS["entity"].findall(text)) < SEEN_TAGS:
        return text
    return html.unescape(PATTERNS["tag"].sub("", PATTERNS["break"].sub("\n", text)))


def _spaces(text: str) -> str:
    """Odd spaces plain, none at ends of lines, at most one empty line; those at the beginning of a line stay."""
    text = PATTERNS["spaces"].sub(" ", re.sub("\r\n?|\u2028", "\n", text).replace("\u2029", "\n\n"))
    text = re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", text) if "|" not in text else text
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text))


def closed(text: str) -> str:
    """A text whose last code block ends, with the fence that opened it."""
    opened = ""
    for fence in PATTERNS["fence"].finditer(text):
        mark = fence.group(1)
        if not opened:
            opened = mark
        elif mark[0] == opened[0] and len(mark) >= len(opened):
            opened = ""
    return text if not opened else text.rstrip("\n") + "\n" + opened


def balanced(text: str) -> str:
    """JSON that lacks closing brackets at its end, or has too many there, mended; anything else as it is.

    Which brackets are open follows from the text, so that there is one mending or none.
    """
    if _valid(text):
        return text
    opened, quoted = [], False
    for mark in PATTERNS["json_mark"].finditer(text):
        if mark.group() == '"':
            quoted = not quoted
        elif not quoted and mark.group() in PAIRS:
            opened.append(PAIRS[mark.group()])
        elif not quoted and mark.group() in "}]":
            if not opened and not text[mark.start() :].strip("}] \t\r\n"):
                mended = text[: mark.start()].rstrip()
                break
            if not opened or opened.pop() != mark.group():
                return text
    else:
        mended = text.rstrip() + "".join(reversed(opened)) if opened else text
    return mended if _valid(mended) else text


def _valid(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _balanced_block(block: re.Match[str]) -> str:
    return block["open"] + balanced(block["inner"]) + block["close"]


def ordered(talk: Any) -> Any:
    """Turns without those that say nothing, the system's first, and two of one speaker as one; else the same value.

    Only turns that hold nothing but a speaker and a text go or become one, and an answer that comes first stays.
    """
    keys = next((keys for keys in (("role", "content"), ("from", "value")) if _spoken(talk, *keys)), None)
    if keys is None:
        return talk
    who, says = keys
    said = [turn for turn in talk if set(turn) > set(keys) or turn[says].strip()]
    said.sort(key=lambda turn: turn[who] != "system")
    turns: list[dict[str, str]] = []
    for turn in said:
        plain = turns and set(turn) == set(turns[-1]) == set(keys)
        if plain and turns[-1][who] == turn[who] and turn[who] in SPEAKERS:
            turns[-1] = {**turns[-1], says: f"{turns[-1][says]}\n\n{turn[says]}"}
        else:
            turns.append(turn)
    return turns if turns else talk


def _spoken(talk: Any, who: str, says: str) -> bool:
    """Whether a value is turns, each with a speaker and a text."""
    return isinstance(talk, list) and all(
        isinstance(turn, dict) and isinstance(turn.get(who), str) and isinstance(turn.get(says), str) for turn in talk
    )
