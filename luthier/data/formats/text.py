"""Plain text: `{"text": ...}`, or rows that are bare strings."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Row, Text
from luthier.data.formats.base import wrong_layout
from luthier.errors import RowError


class PlainText:
    """Text to continue, without roles; for `objective: pretrain`."""

    evidence = "text, or bare strings"

    def recognises(self, value: Any) -> bool:
        """A string, or a mapping with a string `text`."""
        return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("text"), str))

    def read(self, row: Row) -> Content:
        """The text; raises RowError."""
        if not self.recognises(row.value):
            raise wrong_layout(row, self.evidence)
        text = row.value if isinstance(row.value, str) else row.value["text"]
        if not text.strip():
            raise RowError(row.origin, "empty-text", "the text is empty")
        return Text(text)
