"""Something to answer, without the answer to learn: `{"prompt": ...}`, with the right `answer` where there is one."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Conversation, Row, Task
from luthier.data.formats.base import judged, unanswered, wrong_layout
from luthier.data.formats.preference import prompt_of
from luthier.data.formats.prompt_completion import PAIRS
from luthier.errors import RowError

ANSWERS = ("answer", "solution", "ground_truth", "target")


class Prompt:
    """A prompt (text or messages) for online objectives; rewards see all other keys of the row."""

    evidence = (
        "prompt, with answer, solution, ground_truth or target where there is one (or query, problem or messages with "
        "solution); for online objectives"
    )

    def recognises(self, value: Any) -> bool:
        """A prompt is there, and nothing that would be learnt from it."""
        return _asks(value) and not judged(value)

    def read(self, row: Row) -> Content:
        """The task; raises RowError."""
        if not _asks(row.value):
            raise wrong_layout(row, self.evidence)
        messages = prompt_of(row)
        if not messages or not messages[-1].content.strip():
            raise RowError(row.origin, "empty-question", "prompt is empty")
        if messages[-1].role == "assistant":
            raise RowError(row.origin, "empty-question", "the prompt ends with an answer")
        answer = next((row.value[key] for key in ANSWERS if row.value.get(key) is not None), None)
        if answer is not None and not isinstance(answer, str | int | float):
            raise RowError(row.origin, "bad-message", f"the right answer must be text or a number, got {answer!r}")
        return Task(Conversation(tuple(messages)), None if answer is None else str(answer), row.value)


def _asks(value: Any) -> bool:
    if not isinstance(value, dict) or any(set(pair) <= set(value) for pair in PAIRS):
        return False
    judged_by = value.get("solution") is not None
    plain = judged_by and any(isinstance(value.get(key), str) for key in ("query", "problem"))
    return isinstance(value.get("prompt"), str | list) or plain or unanswered(value)
