"""The canonical layout: `{"messages": [{"role": ..., "content": ...}], "tools": [...]}`."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Row, conversation, message
from luthier.data.formats.base import judged, wrong_layout
from luthier.data.formats.listed import listed

KEYS = ("messages", "conversations", "conversation")


class Messages:
    """OpenAI messages, with `tools`, `tool_calls`, text parts, and `train` / `weight` on a message."""

    evidence = "messages: a list of {role, content}, one or more; tools optional"

    def recognises(self, value: Any) -> bool:
        """A list of mappings with a role, under one of the known keys."""
        return isinstance(value, dict) and not judged(value) and _key(value) is not None

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        key = _key(row.value) if isinstance(row.value, dict) else None
        if key is None:
            raise wrong_layout(row, self.evidence)
        turns = [message(turn, row.origin, position) for position, turn in enumerate(listed(row.value[key]))]
        return conversation(turns, row.origin, row.value.get("tools"))


def _key(value: dict[str, Any]) -> str | None:
    """The key that holds the messages."""
    for key in KEYS:
        turns = listed(value.get(key))
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns):
            return key
    return None
