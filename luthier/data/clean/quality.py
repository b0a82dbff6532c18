"""Rows that teach little, told by rules of thumb.

They are Gopher's and C4's (Rae et al. 2021, arXiv:2112.11446, table A1; Raffel et al. 2020, arXiv:1910.10683), and
what goes wrong with answers of models: refusals, answers that are cut off, answers that say the question again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.clean.base import CleanerSettings, Drop, Said
from luthier.data.clean.duplicates import plain
from luthier.supplies import shipped

WORDS = re.compile(r"\w+", re.UNICODE)
ENDS = tuple(".!?。！？…\"'”’)]}）】》」』`*_:;：；")
ODD = re.compile(r"[^\w\s.,;:!?'\"()\-–—…%/«»·|*#=+<>`\u0300-\U0010ffff]")
"""A symbol: no letter, number, space or usual punctuation."""
LONG = 200
"""Characters from which on an answer that ends in the middle of a sentence is taken to be cut off."""


class Quality(CleanerSettings):
    """Drop rows that break a rule of thumb."""

    type: Literal["quality"] = "quality"
    min_characters: Annotated[int, Field(ge=0)] = 2
    """Shortest answer (or text)."""
    max_characters: Annotated[int, Field(gt=0)] = 100_000
    """Longest answer (or text)."""
    max_repetition: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of lines that are said before, or of characters in what is repeated most (Gopher)."""
    max_symbols: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of characters of prose that are no letters, numbers or usual punctuation."""
    boilerplate: bool = True
    """Drop texts that hold phrases of web pages ("lorem ipsum", "enable JavaScript"), C4's among them."""
    refusals: bool = True
    """Drop answers that refuse, or that speak of being a language model."""
    truncated: bool = True
    """Drop long answers of prose that end in the middle of a sentence."""
    echoes: bool = True
    """Drop answers that say again what was asked."""

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """The first rule that each row breaks."""
        return [next(self._broken(row), None) for row in rows]

    def _broken(self, row: Said) -> Iterator[Drop]:
        answer = row.answer.strip()
        length = len(answer)
        if length < self.min_characters:
            yield Drop("too-short", length, self.min_characters, f"{length} characters")
        if length > self.max_characters:
            yield Drop("too-long", length, self.max_characters, f"{length:,} characters")
        repeated = repetition(answer)
        if repeated > self.max_repetition:
            yield Drop("repetition", repeated, self.max_repetition, f"{100 * repeated:.0f} % is repeated")
        odd = symbols(answer)
        if odd > self.max_symbols:
            yield Drop("symbols", odd, self.max_symbols, f"{100 * odd:.0f} % of the characters are symbols")
        asked = row.question != ""
        broken = {
            "boilerplate": phrase(answer, "boilerplate") if self.boilerplate else None,
            "refusal": phrase(answer[:300], "refusals") if self.refusals and asked else None,
            "truncated": cut_off(answer) if self.truncated and asked else None,
            "echo": echo(row.question, answer) if self.echoes and asked else None,
        }
        yield from (Drop(rule, 1.0, 1.0, why) for rule, why in broken.items() if why)


def repetition(text: str) -> float:
    """The largest share of lines, or of words' characters, that is repeated (Gopher's filters on lines and n-grams)."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shares = [0.0]
    if len(lines) > 3:
        shares.append(1 - len(set(lines)) / len(lines))
    words = WORDS.findall(text)
    wide = len(words) < len(text) / 20  # a script without spaces: characters are its words
    words = [c for c in text if c.isalnum()] if wide else words
    if len(words) >= 20:
        size = 10 if wide else 3
        pieces = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
        most, count = pieces.most_common(1)[0]
        if count > 2:
            shares.append(min(1.0, count * sum(map(len, most)) / sum(map(len, words))))
    return max(shares)


def symbols(text: str) -> float:
    """Share of characters that are neither letters, numbers, spaces nor usual punctuation; none in code or formulas."""
    if len(text) < 20 or "```" in text or "$" in text or "\\" in text:
        return 0.0
    return len(ODD.findall(text)) / len(text)


def phrase(text: str, kind: str) -> str | None:
    """A phrase of a list that a text holds."""
    found = _phrases(kind).search(text)
    return f"says {found.group()!r}" if found else None


@cache
def _phrases(kind: str) -> re.Pattern[str]:
    phrases = shipped("luthier.data.clean", "phrases.yaml")[kind]
    return re.compile("|".join(f"(?:{one})" for one in phrases), re.IGNORECASE)


def cut_off(text: str) -> str | None:
    """Prose that is long, and ends without an end."""
    last = text.splitlines()[-1].strip() if text else ""
    listed = re.match(r"^([-*+•]|\d+[.)])\s", last) or "|" in last or "```" in text or last.startswith("#")
    if len(text) < LONG or listed or last.endswith(ENDS) or not last[-1:].isalnum():
        return None
    return None if len(last) < 60 else f"ends with {last[-30:]!r}"


def echo(question: str, answer: str) -> str | None:
    """An answer that is the question, or its last line."""
    said = plain(answer)
    asked = {plain(question), plain(question.splitlines()[-1])}
    return "says what was asked" if said and said in asked else None
