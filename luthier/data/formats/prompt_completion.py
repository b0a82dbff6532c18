"""Two columns: prompt and completion, and their usual other names. Strings or lists of messages."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation, message, unlearnt
from luthier.data.formats.alpaca import earlier
from luthier.data.formats.base import found_in, judged
from luthier.data.formats.choice import Choice
from luthier.errors import RowError
from luthier.supplies import shipped

PAIRS: list[list[str]] = shipped("luthier.data.formats", "keys.yaml")["answered"]


class PromptCompletion:
    """A question and its answer, with optional `system` and `history`."""

    evidence = " or ".join(f"{prompt} and {answer}" for prompt, answer in PAIRS)

    def recognises(self, value: Any) -> bool:
        """One of the known pairs of keys is there, and no options to choose from."""
        if not isinstance(value, dict) or judged(value) or Choice().recognises(value):
            return False
        return _pair(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        pair = found_in(row, _pair, self.evidence)
        before = earlier(row)
        asked, answered = _side(row, pair[0], "user"), _side(row, pair[1], "assistant")
        if not any(turn.role == "assistant" for turn in answered):  # an assistant in the prompt is not the answer
            raise RowError(row.origin, "no-assistant", f"{pair[1]} holds no assistant message")
        context = [unlearnt(turn) for turn in asked]  # only the completion is learnt
        return conversation([*before, *context, *answered], row.origin, row.value.get("tools"))


def _pair(value: dict[str, Any]) -> list[str] | None:
    return next((pair for pair in PAIRS if set(pair) <= set(value)), None)


def _side(row: Row, key: str, role: str) -> list[Message]:
    said = row.value[key]
    if role == "user" and (said == [] or (isinstance(said, str) and not said.strip())):
        raise RowError(row.origin, "empty-question", f"{key} is empty")
    if isinstance(said, str):
        return [Message(role=role, content=said)]
    if isinstance(said, list):
        return [message(turn, row.origin, position) for position, turn in enumerate(said)]
    raise RowError(
        row.origin, "bad-message", f"{key} must be a string or a list of messages, got {type(said).__name__}"
    )
