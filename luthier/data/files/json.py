"""JSON: an array of rows, an object whose only key holds one, JSON Lines, and values one after another.

Which of them a file is, its content says, not its name. No more of it is held than its longest row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from luthier.data.files.base import How
from luthier.data.files.opened import LARGEST_ROW, TOO_LONG, Characters, Opened, RowTooLong
from luthier.data.strict import StrictDecoder
from luthier.errors import DataError

WHITE = re.compile(r"[ \t\r\n]*")
HOLDER = re.compile(r'\{[ \t\r\n]*"[^"\\]*"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\{')
"""How an object begins that may hold all rows."""
HOLDS_ROWS = object()
"""Stands for a value that is not one row; null is one, if a bad one."""
NEAR = 16
"""Characters from the end of what was read so far within which a fault may be for want of the rest."""


class Json:
    """Rows as JSON values."""

    suffixes = (".json", ".jsonl", ".ndjson")

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each row value with the line it starts on."""
        cursor = _Cursor(how.text(file), str(file))
        cursor.skip()
        if not cursor.peek():
            raise DataError(f"{file}: the file is empty")
        line, first = cursor.line, cursor.first()
        if first is HOLDS_ROWS:
            holder, rows = ("array", _array) if cursor.peek() == "[" else ("object that holds the rows", _object)
            yield from rows(cursor)
            if cursor.peek():
                raise cursor.error(f"text after the end of the {holder}")
            return
        cursor.skip()
        yield line, first
        while cursor.peek():
            line = cursor.line
            yield line, cursor.decode()
            cursor.skip()


def _object(cursor: _Cursor) -> Iterator[tuple[int, Any]]:
    """An object of one key with all rows, row by row, so that each has its own line."""
    cursor.take("{")
    cursor.decode()
    cursor.skip()
    cursor.take(":")
    yield from _array(cursor)
    cursor.take("}")


def _holds_rows(value: Any) -> bool:
    """One key with a list of objects that are not chat messages: {"messages": [...]} alone is one row, not a file."""
    rows = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(rows, list) or not rows:
        return False
    return all(isinstance(row, dict) and not {"role", "from"} & set(row) for row in rows)


def _array(cursor: _Cursor) -> Iterator[tuple[int, Any]]:
    cursor.take("[")
    more = cursor.peek() != "]"
    while more:
        line = cursor.line
        yield line, cursor.decode()
        cursor.skip()
        more = cursor.peek() != "]"
        if more:
            cursor.take(",")
    cursor.take("]")


class _Cursor:
    """A place in a text that knows its line; of the text it holds what comes next."""

    def __init__(self, characters: Characters, name: str) -> None:
        self.characters, self.name, self.line = characters, name, 1
        self.text, self.index, self.ended = "", 0, False
        self.decoder = StrictDecoder()

    def more(self) -> None:
        """Hold at least as much again of the text; what lies before the cursor is let go."""
        pieces, wanted = [self.text[self.index :]], max(len(self.text) - self.index, 1)
        while wanted > 0 and not self.ended:
            pieces.append(self.characters.read())
            self.ended = not pieces[-1]
            wanted -= len(pieces[-1])
        self.text, self.index = "".join(pieces), 0

    def peek(self) -> str:
        if self.index >= len(self.text) and not self.ended:
            self.more()
        return self.text[self.index : self.index + 1]

    def move(self, index: int) -> None:
        self.line += self.text.count("\n", self.index, index)
        self.index = index

    def skip(self) -> None:
        while self.peek() in " \t\r\n" and self.peek():
            found = WHITE.match(self.text, self.index)
            assert found is not None
            self.move(found.end())

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            found = repr(self.peek()) if self.peek() else "the end of the file"
            raise self.error(
                f"expected {expected!r}, found {found}" + ("" if self.peek() else "; is the file cut off?")
            )
        self.move(self.index + 1)
        self.skip()

    def first(self) -> Any:
        """The first value; HOLDS_ROWS, and nothing taken, where it is an array, or an object that holds all rows."""
        if self.peek() == "[":
            return HOLDS_ROWS
        try:
            value, end = self._value()
        except RowTooLong:
            if HOLDER.match(self.text, self.index):
                return HOLDS_ROWS
            raise
        if _holds_rows(value):
            while (rest := WHITE.match(self.text, end)) and rest.end() == len(self.text) and not self.ended:
                end -= self.index
                self.more()
            if rest and rest.end() == len(self.text):
                return HOLDS_ROWS
        self.move(end)
        return value

    def decode(self) -> Any:
        """The value that starts here; the cursor then stands behind it."""
        value, end = self._value()
        self.move(end)
        return value

    def _value(self) -> tuple[Any, int]:
        while True:
            held = len(self.text) - self.index
            try:
                value, end = self.decoder.raw_decode(self.text, self.index)
            except json.JSONDecodeError as error:
                short = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - NEAR
                if short and not self.ended:
                    if held > LARGEST_ROW:
                        raise RowTooLong(f"{self.name}:{self.line}: {TOO_LONG}") from None
                    self.more()
                    continue
                raise self._invalid(error) from None
            except ValueError as error:
                raise self.error(str(error)) from None
            if end < len(self.text) or self.ended:
                break
            self.more()  # a number may go on
        if end - self.index > LARGEST_ROW:
            raise RowTooLong(f"{self.name}:{self.line}: {TOO_LONG}")
        return value, end

    def _invalid(self, error: json.JSONDecodeError) -> DataError:
        cut = "; is the file cut off?" if error.pos >= len(self.text.rstrip()) or "Unterminated" in error.msg else ""
        self.move(min(error.pos, len(self.text)))
        return self.error(f"not valid JSON: {error.msg}{cut}")

    def error(self, message: str) -> DataError:
        return DataError(f"{self.name}:{self.line}: {message}")
