"""The Alpaca layout: `{"instruction": ..., "input": ..., "output": ..., "system": ..., "history": [[q, a], ...]}`."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation, system_turns
from luthier.data.formats.base import found_in, judged
from luthier.data.strict import listed
from luthier.errors import RowError


class Alpaca:
    """An instruction with an optional input, and one answer. Input follows the instruction on a new line.

    Dolly's rows call the input `context` and the answer `response`.
    """

    evidence = "instruction and output (or response); input (or context), system and history optional"

    def recognises(self, value: Any) -> bool:
        """Both keys are there."""
        return isinstance(value, dict) and not judged(value) and _names(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        value, own = row.value, found_in(row, _names, self.evidence)
        texts = {key: "" if value.get(own[key]) is None else value[own[key]] for key in own}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise RowError(row.origin, "bad-message", f"{own[key]} must be a string, got {type(text).__name__}")
        question = "\n".join(part for part in (texts["instruction"], texts["input"]) if part)
        if not question.strip():
            raise RowError(row.origin, "empty-question", "instruction and input are both empty")
        turns = [Message(role="user", content=question), Message(role="assistant", content=texts["output"])]
        return conversation(earlier(row) + turns, row.origin, value.get("tools"))


def _names(value: dict[str, Any]) -> dict[str, str] | None:
    """What this row calls the instruction, its input and the answer; None where it has not both ends."""
    dolly = "output" not in value
    if "instruction" not in value or (dolly and "response" not in value):
        return None
    return {"instruction": "instruction", "input": "context" if dolly and "input" not in value else "input",
            "output": "response" if dolly else "output"}  # fmt: skip


def earlier(row: Row) -> list[Message]:
    """What the system says, and earlier question-answer pairs, learnt like the last one; raises RowError."""
    turns = system_turns(row.value, row.origin)
    pairs = listed(row.value.get("history"))
    wrong = RowError(row.origin, "bad-message", "history must be a list of [question, answer] pairs")
    if pairs is not None and not isinstance(pairs, list):
        raise wrong
    for pair in pairs or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise wrong
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return turns
