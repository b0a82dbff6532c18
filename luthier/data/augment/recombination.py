"""Rows put together anew: sentences of a context in another order, two conversations as one, two questions as one.

Words and answers stay as they are. What may be moved is told by rules that leave alone what they are not sure of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.augment.base import Augmenter, AugmenterSettings, Candidate, chance
from luthier.data.augment.facts import FACTS, OPTION, QUOTED, WORD, sentences, words_of
from luthier.data.augment.rewrite import rewritten
from luthier.data.augment.words import CHINESE
from luthier.data.clean.near import jaccard, shingles
from luthier.data.conversation import Content, Conversation

Mode = Literal["reorder", "dialogue", "questions"]
TRIED = 32
"""Rows among which a partner is looked for."""
SAME = 0.5
"""Share of shingles from which on two rows say the same, so that no conversation holds both."""
QUESTION, ANSWER = 300, 600
"""Characters of a question, and of an answer, that are short enough to be asked and answered together."""
ASKS = ("?", "？")
LABEL = re.compile(r"\w*[:：]?\s*")
"""A line that may stand behind a question beside answers to choose: none, or `Answer:`."""
LISTED = re.compile(r"(?:\d+|[A-Za-z])[.)]|[-*•]|\w+[:：]")


class Recombination(AugmenterSettings):
    """Put sentences and rows together anew, without a change to what is said."""

    type: Literal["recombination"] = "recombination"
    modes: Annotated[list[Mode], Field(min_length=1)] = Field(default=["reorder", "dialogue", "questions"])
    """reorder: sentences before a question, where none refers to another; dialogue: two rows of like meaning as two
    turns; questions: two short questions of unlike rows as one, with both answers in order."""

    def build(self) -> Augmenter:
        """Nothing to load."""
        return self

    def make(self, rows: Sequence[Content]) -> Iterator[Candidate]:
        """Each row in the modes by turns; partners are drawn from rows by what they say, not by where they stand."""
        single = [(number, row) for number, row in enumerate(rows) if isinstance(row, Conversation) and _single(row)]
        single.sort(key=lambda one: one[1].content_id)
        found = {row.content_id: shingles(_both(row)) for _, row in single}
        for number, row in enumerate(rows):
            for copy in range(self.copies):
                random = chance(self.seed, row, copy)
                modes = random.sample(self.modes, len(self.modes))
                made = (self._made(mode, number, row, random, single, found) for mode in modes)
                first = next((candidate for candidate in made if candidate is not None), None)
                if first is not None:
                    yield first

    def _made(
        self, mode: Mode, number: int, row: Content, random: Random, single: Sequence[tuple[int, Conversation]],
        found: dict[str, Any],
    ) -> Candidate | None:  # fmt: skip
        if mode == "reorder":
            moved = rewritten(row, lambda text: reordered(text, random))
            return None if moved == row else Candidate(number, moved, "recombination: reorder")
        if not isinstance(row, Conversation) or not _single(row):
            return None
        joined = dialogue if mode == "dialogue" else questions
        fit = [
            (share, content.content_id, place, content)
            for place, other in random.sample(single, min(TRIED, len(single)))
            if other.messages[:-2] == row.messages[:-2] and _chinese(other) == _chinese(row)
            and (content := joined(row, other)) is not None
            and (share := jaccard(found[row.content_id], found[other.content_id])) < SAME
        ]  # fmt: skip
        if not fit:
            return None
        _, _, place, content = (max if mode == "dialogue" else min)(fit, key=lambda one: one[:2])
        return Candidate(number, content, f"recombination: {mode}", (place,))


def reordered(text: str, random: Random) -> str:
    """A text that ends with a question, the sentences of each line before it in another order; else the text itself.

    A sentence that refers to another stays behind the one before it. Texts with code stay as they are.
    """
    lines, behind = text.splitlines(keepends=True), ""
    while lines and (OPTION.match(lines[-1]) or LABEL.fullmatch(lines[-1])):
        behind = lines.pop() + behind
    question = (sentences(lines[-1]) if lines else [""])[-1]
    if not question.rstrip().endswith(ASKS) or FACTS["code"].search(text) or _holds(question, "ordered"):
        return text
    lines[-1] = lines[-1].removesuffix(question)
    return "".join(_moved(line, random) for line in lines) + question + behind


def _moved(line: str, random: Random) -> str:
    """The sentences of a line in another order, where it has several that stand by themselves."""
    body = line.strip()
    blocks: list[list[str]] = []
    before: set[str] = set()
    for sentence in sentences(body):
        words = _words(sentence)
        if blocks and _refers(sentence, words, before):
            blocks[-1].append(sentence)
        else:
            blocks.append([sentence])
        before |= set(words)
    if len(blocks) < 2 or QUOTED.search(body) or any(LISTED.match(sentence) for sentence, *_ in blocks):
        return line
    order = random.sample(range(len(blocks)), len(blocks))
    if order == sorted(order):
        order = order[1:] + order[:1]
    moved = ("" if CHINESE.search(body) else " ").join(sentence for place in order for sentence in blocks[place])
    return line.replace(body, moved)


def _refers(sentence: str, words: Sequence[str], before: set[str]) -> bool:
    """Whether a sentence needs what was said before: by a pronoun, by how it begins, or by `the` with a known word."""
    known = any(article == "the" and word in before for article, word in pairwise(words))
    begins = words[:1] and words[0] in words_of("joins", "en")
    return bool(known or begins) or _holds(sentence, "refers") or sentence.startswith(tuple(words_of("joins", "zh")))


def _holds(sentence: str, name: str) -> bool:
    """Whether a sentence has one of a list's words."""
    return not words_of(name, "en").isdisjoint(_words(sentence)) or any(one in sentence for one in words_of(name, "zh"))


def _words(sentence: str) -> list[str]:
    return [word.lower() for word in WORD.findall(sentence)]


def dialogue(row: Conversation, other: Conversation) -> Conversation | None:
    """Another row's question and answer as a second turn."""
    return Conversation((*row.messages, *other.messages[-2:]), row.tools)


def questions(row: Conversation, other: Conversation) -> Conversation | None:
    """Two questions as one, a line each, and their answers in this order; None where they are no short questions."""
    asked, answers = zip(
        *((talk.messages[-2].content.strip(), talk.messages[-1]) for talk in (row, other)), strict=True
    )
    short = all(len(one) <= QUESTION and one.endswith(ASKS) and "\n" not in one for one in asked)
    if not short or any(len(one.content) > ANSWER for one in answers):
        return None
    said = replace(answers[0], content="\n\n".join(one.content.strip() for one in answers))
    turns = (*row.messages[:-2], replace(row.messages[-2], content="\n".join(asked)), said)
    return Conversation(turns, row.tools)


def _single(talk: Conversation) -> bool:
    """Whether a conversation is one question and an answer to learn, and perhaps what the system says first."""
    roles = [turn.role for turn in talk.messages]
    plain = not talk.tools and not any(turn.tool_calls or turn.reasoning for turn in talk.messages)
    if not plain or roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        return False
    return talk.messages[-1].weight > 0 and bool(talk.messages[-1].content.strip())


def _both(talk: Conversation) -> str:
    return "\n".join(turn.content for turn in talk.messages[-2:])


def _chinese(talk: Conversation) -> bool:
    return CHINESE.search(talk.messages[-2].content) is not None
