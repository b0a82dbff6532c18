"""Files into rows, each with its file and line. Knows JSON, not layouts.

Reads a JSON array, an object whose only key holds an array of rows, JSON Lines, and JSON values one after another;
which of them a file is, its content says, not its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.data.conversation import Origin, Row
from luthier.data.strict import StrictDecoder
from luthier.errors import DataError
from luthier.plugins import suggestion

SUFFIXES = (".json", ".jsonl")
_WHITE = " \t\r\n"


def read_rows(path: str | Path, *, limit: int | None = None) -> Iterator[Row]:
    """The rows of one file, in order.

    Raises:
        DataError: no such file, not text, not JSON (with the line), or not of a known suffix.
    """
    for line, value in islice(_values(_read_text(Path(path)), str(path)), limit):
        yield Row(Origin(str(path), line), value)


def with_columns(rows: Sequence[Row], columns: Mapping[str, str], file: str) -> list[Row]:
    """Rows that hold nothing but the columns named, each under the key that its layout has for it.

    Raises:
        DataError: a column that no row has.
    """
    there = {key for row in rows if isinstance(row.value, dict) for key in row.value}
    for own, theirs in columns.items():
        if theirs not in there:
            raise DataError(f"{file}: columns: {own}: no row has the key {theirs!r}; {suggestion(theirs, there)}")
    return [
        replace(row, value={own: row.value[theirs] for own, theirs in columns.items() if theirs in row.value})
        if isinstance(row.value, dict)
        else row
        for row in rows
    ]


def _read_text(file: Path) -> str:
    try:
        if file.is_dir():
            raise DataError(f"{file}: a folder; give one of its files")
        if file.suffix.lower() not in SUFFIXES:
            kind = file.suffix or "files without a suffix"
            raise DataError(f"{file}: cannot read {kind}; allowed: {', '.join(SUFFIXES)}")
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (looked at {file.absolute()})") from None
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL character
        raise DataError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if b"\0" in raw[:65536]:
        raise DataError(f"{file}: not a text file (it holds NUL bytes); expected UTF-8 JSON")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")  # "utf-8-sig" would count offsets from behind the mark
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start}); convert it to UTF-8"
        ) from None
    if not text or text.isspace():
        raise DataError(f"{file}: the file is empty")
    return text


def _values(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each row value with the line it starts on."""
    cursor = _Cursor(text, name)
    cursor.skip()
    if cursor.peek() == "[":
        yield from _array(cursor)
        if cursor.peek():
            raise cursor.error("text after the end of the array")
        return
    start, first = (cursor.index, cursor.line), cursor.decode()
    cursor.skip()
    if not cursor.peek() and _holds_rows(first):
        cursor.index, cursor.line = start  # once more from the brace on, now row by row, so that each has its own line
        cursor.take("{")
        cursor.decode()
        cursor.skip()
        cursor.take(":")
        yield from _array(cursor)
        return
    yield start[1], first
    while cursor.peek():
        line = cursor.line
        yield line, cursor.decode()
        cursor.skip()


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
    """A place in a text that knows its line."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.index, self.line = text, name, 0, 1
        self.decoder = StrictDecoder()

    def peek(self) -> str:
        return self.text[self.index : self.index + 1]

    def move(self, index: int) -> None:
        self.line += self.text.count("\n", self.index, index)
        self.index = index

    def skip(self) -> None:
        end = self.index
        while end < len(self.text) and self.text[end] in _WHITE:
            end += 1
        self.move(end)

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            found = repr(self.peek()) if self.peek() else "the end of the file"
            raise self.error(
                f"expected {expected!r}, found {found}" + ("" if self.peek() else "; is the file cut off?")
            )
        self.move(self.index + 1)
        self.skip()

    def decode(self) -> Any:
        try:
            value, end = self.decoder.raw_decode(self.text, self.index)
        except json.JSONDecodeError as error:
            self.move(min(error.pos, len(self.text)))
            cut = (
                "; is the file cut off?" if error.pos >= len(self.text.rstrip()) or "Unterminated" in error.msg else ""
            )
            raise self.error(f"not valid JSON: {error.msg}{cut}") from None
        except ValueError as error:
            raise self.error(str(error)) from None
        self.move(end)
        return value

    def error(self, message: str) -> DataError:
        return DataError(f"{self.name}:{self.line}: {message}")
