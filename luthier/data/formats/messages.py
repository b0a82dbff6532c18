"""The canonical layout: `{"messages": [{"role": ..., "content": ...}], "tools": [...]}`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation, message, system_turns
from luthier.data.formats.base import found_in, judged, unanswered
from luthier.data.strict import listed

KEYS = ("messages", "conversations", "conversation")


class Messages:
    """OpenAI messages, with `tools`, `tool_calls`, text parts, and `train` / `weight` on a message."""

    evidence = "messages: a list of {role, content}, one or more; tools optional"

    def recognises(self, value: Any) -> bool:
        """A list of mappings with a role, under one of the known keys."""
        return isinstance(value, dict) and not judged(value) and not unanswered(value) and _key(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        key = found_in(row, _key, self.evidence)
        turns: list[Message] = []
        for position, given in enumerate(listed(row.value[key])):
            turn = message(given, row.origin, position)
            # ms-swift's one turn, in parts
            if given["role"] == "tool_call" and turns and turns[-1].role == "assistant":
                turns[-1] = replace(turns[-1], tool_calls=turns[-1].tool_calls + turn.tool_calls)
            else:
                turns.append(turn)
        before = [] if turns[0].role == "system" else system_turns(row.value, row.origin)
        return conversation(before + turns, row.origin, row.value.get("tools"))


def _key(value: dict[str, Any]) -> str | None:
    """The key that holds the messages."""
    for key in KEYS:
        turns = listed(value.get(key))
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns):
            return key
    return None
