"""A cleaner mends what rows say, or says which rows should go, and why.

What it does: changes text (`mend`, or a whole row by `mend_row`), finds something out about rows one by one (`look`,
which may happen in another process), and decides about them in their order (`judge`, which may remember earlier ones).
What it must not know: files, layouts, tokenizers, configs, other cleaners.
How to add one: one file here with a settings class and what it builds, one line under `cleaner` in `plugins.yaml`
(or an entry point `luthier.cleaner` in a package of your own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from luthier.data.conversation import Content, Labelled, Preference, Task, Text
from luthier.plugins import Part

Of = Literal["text", "question", "answer"]
"""What of a row may be looked at."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row should go: the rule, what was measured, where the line is, and a sentence.

    `readable` is false where no cleaner wants it gone, but nothing can be learnt from it.
    """

    rule: str
    score: float
    threshold: float
    detail: str
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says: all of it, what is asked, and what is answered; `where` is its file and line."""

    where: str
    content: Content
    text: str
    question: str
    answer: str


class Cleaner:
    """One cleaner at work. Each part does nothing unless a kind says otherwise."""

    def mend(self, text: str) -> str:
        """A string of a row, better; the same string where there is nothing to mend."""
        return text

    def mend_row(self, value: Any) -> Any:
        """The JSON value of a row, better; each of its strings, unless a kind looks at more than one."""
        return strings(value, self.mend)

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """One finding for each row; it must be picklable, since rows may be looked at in other processes."""
        return [None] * len(rows)

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """Whether a row should go; rows come in order, and each that went earlier came here too.

        What needs no memory of other rows is decided where they are looked at: a finding that is a Drop.
        """
        return finding if isinstance(finding, Drop) else None

    def close(self) -> None:
        """Let go of models, since training needs their memory."""

    def notes(self) -> Sequence[str]:
        """What there is to say when all rows were judged, such as how many could not be."""
        return ()


class CleanerSettings(Part, Cleaner):
    """Settings of a kind of cleaner; one that loads and remembers nothing is at work itself."""

    remembers: ClassVar[bool] = False
    """Whether what becomes of a row depends on earlier ones."""
    heavy: ClassVar[bool] = False
    """Whether looking costs so much that only rows should come here which all cleaners before have kept."""

    def build(self) -> Cleaner:
        """The cleaner, its libraries loaded.

        Raises:
            MissingExtra: one is not installed.
        """
        return self


NO_TEXT = frozenset({"role", "from", "name", "type", "id", "tool_call_id"})
"""Keys whose strings are names."""


def strings(value: Any, mend: Callable[[str], str]) -> Any:
    """A JSON value with all its strings mended; keys, and the names of those who speak, are no text."""
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, list):
        return [strings(one, mend) for one in value]
    if isinstance(value, dict):
        return {key: one if key in NO_TEXT else strings(one, mend) for key, one in value.items()}
    return value


def said(content: Content, where: str) -> Said:
    """What a row says, in parts."""
    if isinstance(content, Text):
        return Said(where, content, content.text, "", content.text)
    if isinstance(content, Preference):
        asked = [turn for turn in content.chosen.messages if turn.weight == 0 or turn.role != "assistant"]
        answers = [turn.content for turn in (content.chosen.messages[-1], content.rejected.messages[-1])]
        question = "\n".join(turn.content for turn in asked)
        return Said(where, content, "\n".join([question, *answers]), question, answers[0])
    talk = content.answer if isinstance(content, Labelled) else content.asked if isinstance(content, Task) else content
    turns = talk.messages
    question = "\n".join(turn.content for turn in turns if turn.role == "user")
    answer = "\n".join(turn.content for turn in turns if turn.role == "assistant" and turn.weight > 0)
    return Said(where, content, "\n".join(turn.content for turn in turns), question, answer)
