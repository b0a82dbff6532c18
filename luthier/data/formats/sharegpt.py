"""The ShareGPT layout: `{"conversations": [{"from": "human", "value": ...}], "system": ..., "tools": ...}`."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import (
    Content,
    Message,
    Origin,
    Row,
    called,
    conversation,
    system_turns,
    weight,
    wrong_message,
)
from luthier.data.formats.base import found_in, judged
from luthier.data.strict import listed
from luthier.supplies import shipped

KEYS = ("conversations", "conversation")
ROLE_OF: dict[str, str] = shipped("luthier.data.formats", "keys.yaml")["speakers"]


class ShareGPT:
    """Turns with `from` and `value`; `function_call` and `observation` turns become tool calls and results.

    Or, as older rows of ms-swift have it, two turns at once: `{"human": ..., "assistant": ...}`.
    """

    evidence = "conversations: a list of {from, value}, or of {human, assistant}; system and tools optional"

    def recognises(self, value: Any) -> bool:
        """A list of such mappings."""
        return isinstance(value, dict) and not judged(value) and _turns(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        turns = found_in(row, _turns, self.evidence)
        messages = [sharegpt_message(turn, row.origin, position) for position, turn in enumerate(turns)]
        return conversation(system_turns(row.value, row.origin) + messages, row.origin, row.value.get("tools"))


def _turns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    for key in KEYS:
        turns = listed(value.get(key))
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            continue
        if all({"from", "value"} <= set(turn) for turn in turns):
            return turns
        if all(set(turn) == {"human", "assistant"} for turn in turns):
            return [{"from": who, "value": turn[who]} for turn in turns for who in ("human", "assistant")]
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
    return Message(role="assistant", tool_calls=called(text, wrong), weight=weight(turn, wrong))
