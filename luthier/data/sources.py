"""Files into rows, each with its file and line. Knows JSON, not layouts.

Reads a JSON array, an object that holds exactly one array, JSON Lines, and JSON values one after another; which of
them a file is, its first characters say, not its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.conversation import Origin, Row
from luthier.errors import DataError

SUFFIXES = (".json", ".jsonl")
_WHITE = " \t\r\n"


def read_rows(path: str | Path, *, limit: int | None = None) -> Iterator[Row]:
    """The rows of one file, in order.

    Raises:
        DataError: no such file, not text, not JSON (with the line), or not of a known suffix.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: cannot read {file.suffix or 'files without a suffix'}; allowed: {', '.join(SUFFIXES)}"
        )
    text = _read_text(file)
    for count, (line, value) in enumerate(_values(text, str(path))):
        if limit is not None and count >= limit:
            return
        yield Row(Origin(str(path), line), value)


def _read_text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (looked at {file.absolute()})") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if not raw.strip():
        raise DataError(f"{file}: the file is empty")
    if b"\0" in raw[:65536]:
        raise DataError(f"{file}: not a text file (it holds NUL bytes); expected UTF-8 JSON")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start}); convert it to UTF-8"
        ) from None


class _Decoder(json.JSONDecoder):
    """JSON as RFC 8259 has it: no NaN, no duplicate keys."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is given twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _values(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Each row value with the line it starts on."""
    cursor = _Cursor(text, name)
    cursor.skip()
    if cursor.peek() == "[":
        yield from _array(cursor)
        return
    start, first = cursor.line, cursor.decode()
    cursor.skip()
    if not cursor.peek():  # one value only: an object holding one array of rows, or a file of one row
        arrays = [value for value in first.values() if _is_rows(value)] if isinstance(first, dict) else []
        single = isinstance(first, dict) and len(arrays) == 1 and len(first) == 1
        yield from ((start, row) for row in arrays[0]) if single else iter([(start, first)])
        return
    yield start, first
    while cursor.peek():
        start = cursor.line
        yield start, cursor.decode()
        cursor.skip()


def _is_rows(value: Any) -> bool:
    """A list of objects that are not chat messages: {"messages": [...]} alone is one row, not a file of rows."""
    return isinstance(value, list) and all(isinstance(row, dict) and not {"role", "from"} & set(row) for row in value)


def _array(cursor: _Cursor) -> Iterator[tuple[int, Any]]:
    cursor.take("[")
    if cursor.peek() == "]":
        cursor.take("]")
    else:
        while True:
            line = cursor.line
            yield line, cursor.decode()
            cursor.skip()
            if cursor.peek() == "]":
                cursor.take("]")
                break
            cursor.take(",")
    if cursor.peek():
        raise cursor.error("text after the end of the array")


class _Cursor:
    """A place in a text that knows its line."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.index, self.line = text, name, 0, 1
        self.decoder = _Decoder()

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
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
        except json.JSONDecodeError as error:
            self.move(min(error.pos, len(self.text)))
            cut = (
                "; is the file cut off?" if error.pos >= len(self.text.rstrip()) or "Unterminated" in error.msg else ""
            )
            raise self.error(f"not valid JSON: {error.msg}{cut}") from None
        except UnicodeEncodeError:
            raise self.error("a string holds a lone surrogate (half of a character)") from None
        except RecursionError:
            raise self.error("nested too deeply") from None
        except ValueError as error:
            raise self.error(str(error)) from None
        self.move(end)
        return value

    def error(self, message: str) -> DataError:
        return DataError(f"{self.name}:{self.line}: {message}")
