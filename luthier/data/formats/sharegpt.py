"""The ShareGPT layout: `{"conversations": [{"from": "human", "value": ...}], "system": ..., "tools": ...}`."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import (
    Content,
    Message,
    Origin,
    Row,
    conversation,
    system_turns,
    tool_calls,
    weight,
    wrong_message,
)
from luthier.data.formats.base import judged, wrong_layout
from luthier.data.formats.listed import listed
from luthier.data.strict import read_json

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
        return isinstance(value, dict) and not judged(value) and _turns(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        turns = _turns(row.value) if isinstance(row.value, dict) else None
        if turns is None:
            raise wrong_layout(row, self.evidence)
        messages = [sharegpt_message(turn, row.origin, position) for position, turn in enumerate(turns)]
        return conversation(system_turns(row.value, row.origin) + messages, row.origin, row.value.get("tools"))


def _turns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    for key in KEYS:
        turns = listed(value.get(key))
        if (
            isinstance(turns, list)
            and turns
            and all(isinstance(t, dict) and {"from", "value"} <= set(t) for t in turns)
        ):
            return turns
    return None


def sharegpt_message(turn: dict[str, Any], origin: Origin, position: int) -> Message:
    """One `{from, value}` turn as a message; raises RowError."""
    wrong = wrong_message(origin, position)
    speaker, text = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in ROLE_OF:
        raise wrong(f"from {speaker!r}; allowed: {', '.join(sorted(ROLE_OF))}")
    if not isinstance(text, str):
        raise wrong(f"value must be a string, got {type(text).__name__}")
    if speaker != "function_call":
        return Message(role=ROLE_OF[speaker], content=text, weight=weight(turn, wrong))
    try:
        calls = read_json(text)
    except ValueError as error:
        raise wrong(f"a function_call must be JSON with name and arguments: {error}") from None
    called = tool_calls(calls if isinstance(calls, list) else [calls], wrong)
    return Message(role="assistant", tool_calls=called, weight=weight(turn, wrong))
