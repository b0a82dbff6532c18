"""What two say in turn, the first one asking: `["How are you?", "Fine.", ...]`, as chatterbot's corpus has it."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation
from luthier.data.formats.base import wrong_layout
from luthier.errors import RowError


class Turns:
    """A list of strings; every second one is the assistant's."""

    evidence = "a list of strings, said in turn by user and assistant"

    def recognises(self, value: Any) -> bool:
        """At least two strings."""
        return isinstance(value, list) and len(value) > 1 and all(isinstance(said, str) for said in value)

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        said = row.value
        if isinstance(said, list) and len(said) < 2 and all(isinstance(one, str) for one in said):
            raise RowError(row.origin, "no-assistant", "a question without an answer")
        if not self.recognises(said):
            raise wrong_layout(row, self.evidence)
        roles = ("user", "assistant")
        return conversation([Message(role=roles[n % 2], content=text) for n, text in enumerate(said)], row.origin)
