"""Two columns: prompt and completion, and their usual other names. Strings or lists of messages."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation, message
from luthier.data.formats.alpaca import history
from luthier.data.formats.base import PREFERENCE_KEYS
from luthier.errors import RowError

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("query", "response"), ("question", "answer"))


class PromptCompletion:
    """A question and its answer, with optional `system` and `history`."""

    evidence = " or ".join(f"{prompt} and {answer}" for prompt, answer in PAIRS)

    def recognises(self, value: Any) -> bool:
        """One of the known pairs of keys is there."""
        return isinstance(value, dict) and not PREFERENCE_KEYS & set(value) and _pair(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        pair = _pair(row.value) if isinstance(row.value, dict) else None
        if pair is None:
            raise RowError(str(row.origin), "wrong-layout", f"expected {self.evidence}")
        system = row.value.get("system")
        turns = [Message(role="system", content=system)] if isinstance(system, str) and system else []
        turns += history(row.value.get("history"), row)
        asked, answered = _side(row, pair[0], "user"), _side(row, pair[1], "assistant")
        return conversation([*turns, *asked, *answered], row.origin, row.value.get("tools"))


def _pair(value: dict[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if set(pair) <= set(value)), None)


def _side(row: Row, key: str, role: str) -> list[Message]:
    said = row.value[key]
    if isinstance(said, str):
        if role == "user" and not said.strip():
            raise RowError(str(row.origin), "empty-question", f"{key} is empty")
        return [Message(role=role, content=said)]
    if isinstance(said, list):
        return [message(turn, row.origin, position) for position, turn in enumerate(said)]
    raise RowError(str(row.origin), "bad-message", f"{key} must be a string or a list of messages")
