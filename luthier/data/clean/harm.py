"""Prompts that ask for harm: told by rules (`harm.yaml`) from how they ask, for which act, on what object.

Rules see words and not what is meant, so that they miss much; `benchmarks.cleaning` says how much.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from luthier.data.clean.base import CleanerSettings, Drop, Said
from luthier.data.clean.offensive import SENTENCE
from luthier.supplies import shipped

Topic = Literal[
    "weapons", "violence", "drugs", "cybercrime", "fraud", "self-harm", "children", "hate", "disinformation", "sexual"
]
APART = 60
"""Most characters between an act and its object."""


class Harm(CleanerSettings):
    """Drop rows whose question asks for harm, in English or Chinese."""

    type: Literal["harm"] = "harm"
    topics: Annotated[list[Topic], Field(min_length=1)] = Field(default=list(get_args(Topic)))
    """What must not be asked for."""

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """Rows whose question asks for harm."""
        found = [asked_for(row.question, self.topics) for row in rows]
        return [one and Drop("harm", 1.0, 1.0, f"asks for {one[0]}: {one[1][:80]!r}") for one in found]


def asked_for(question: str, topics: Sequence[str]) -> tuple[str, str] | None:
    """The first topic of which a question asks for harm, and the words that say so."""
    asks, harmless, patterns, chinese = _rules()
    for sentence in (found.group() for found in SENTENCE.finditer(question)):
        for topic in topics:
            if topic in chinese and (found := chinese[topic].search(sentence)):
                return topic, found.group()
            act = patterns[topic].search(sentence)
            if act and asks.search(sentence) and not harmless.search(sentence, 0, act.end()):
                return topic, act.group()
    return None


@cache
def _rules() -> tuple[re.Pattern[str], re.Pattern[str], dict[str, re.Pattern[str]], dict[str, re.Pattern[str]]]:
    """How one asks, what takes it back, and what for, by topic; in Chinese all in one."""
    rules = shipped("luthier.data.clean", "harm.yaml")
    between = rf"[^.!?]{{0,{APART}}}?"
    topics = {
        topic: [rule if isinstance(rule, str) else f"{rule[0]}{between}{rule[1]}" for rule in found]
        for topic, found in rules["topics"].items()
    }
    chinese = {topic: re.compile(rule) for topic, rule in rules["chinese"].items()}
    asks, harmless = (_any(rules[key]) for key in ("asks", "harmless"))
    return asks, harmless, {topic: _any(found) for topic, found in topics.items()}, chinese


def _any(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in patterns), re.IGNORECASE)
