"""The ShareGPT layout: `{"conversations": [{"from": "human", "value": ...}], "system": ..., "tools": ...}`."""

from __future__ import annotations

import json
from typing import Any

from luthier.data.conversation import Content, Message, Origin, Row, conversation
from luthier.data.formats.base import PREFERENCE_KEYS
from luthier.errors import RowError

KEYS = ("conversations", "conversation")
ROLE_OF = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


class ShareGPT:
    """Turns with `from` and `value`; `function_call` and `observation` turns become tool calls and results."""

    evidence = "conversations: a list of {from, value}; system and tools optional"

    def recognises(self, value: Any) -> bool:
        """A list of mappings with `from` and `value`."""
        return isinstance(value, dict) and not PREFERENCE_KEYS & set(value) and _turns(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        turns = _turns(row.value) if isinstance(row.value, dict) else None
        if turns is None:
            raise RowError(str(row.origin), "wrong-layout", f"expected {self.evidence}")
        messages = [_message(turn, row.origin, position) for position, turn in enumerate(turns)]
        system = row.value.get("system")
        if isinstance(system, str) and system:
            messages.insert(0, Message(role="system", content=system))
        return conversation(messages, row.origin, row.value.get("tools"))


def _turns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    for key in KEYS:
        turns = value.get(key)
        if (
            isinstance(turns, list)
            and turns
            and all(isinstance(t, dict) and {"from", "value"} <= set(t) for t in turns)
        ):
            return turns
    return None


def _message(turn: dict[str, Any], origin: Origin, position: int) -> Message:
    speaker, text = turn["from"], turn["value"]
    if speaker not in ROLE_OF:
        allowed = ", ".join(sorted(ROLE_OF))
        raise RowError(str(origin), "bad-message", f"turn {position}: from {speaker!r}; allowed: {allowed}")
    if not isinstance(text, str):
        raise RowError(str(origin), "bad-message", f"turn {position}: value must be a string")
    weight = turn.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise RowError(str(origin), "bad-message", f"turn {position}: weight must be a number of at least 0")
    if speaker != "function_call":
        return Message(role=ROLE_OF[speaker], content=text, weight=float(weight))
    try:
        calls = json.loads(text)
        calls = calls if isinstance(calls, list) else [calls]
        wrapped = tuple(
            {"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls
        )
    except (ValueError, TypeError, KeyError):
        detail = f"turn {position}: a function_call must be JSON with name and arguments"
        raise RowError(str(origin), "bad-message", detail) from None
    return Message(role="assistant", tool_calls=wrapped, weight=float(weight))
