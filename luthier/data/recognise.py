"""A file of a source, recognised: its rows, in which layout they are, and how that was found.

Whoever reads rows goes through here, so that `train`, `check`, `data inspect`, `show` and `clean` cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from luthier.config import SourceConfig
from luthier.data.conversation import Row
from luthier.data.files.base import How
from luthier.data.formats import base as formats
from luthier.data.formats.columns import mapping
from luthier.data.sources import files_of, rows_of, with_columns
from luthier.errors import DataError
from luthier.plugins import UnknownPart, names


@dataclass(frozen=True, slots=True)
class Reading:
    """What was decided about one file: its format and whether it was recognised or named, and how it was read."""

    file: str
    format: str
    recognised: bool
    rows: int | None
    found: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        by = "recognised" if self.recognised else "as the config says"
        named = ", ".join(f"{key} is {column!r}" for key, column in self.columns.items())
        found = "".join(f"; {part}" for part in (self.found, named) if part)
        rows = "" if self.rows is None else f"{self.rows} rows, "
        return f"{self.file}: {rows}format {self.format} ({by}{found})"


@dataclass(frozen=True, slots=True)
class Recognised:
    """The rows of one file, to be taken once; its format; columns that layouts call otherwise; its first rows."""

    file: str
    format: str
    named: bool
    columns: Mapping[str, str]
    head: Sequence[Row]
    rows: Iterator[Row]
    how: How

    def reading(self, count: int | None = None) -> Reading:
        """What was decided, for the user; how the file was read is known once it was."""
        return Reading(self.file, self.format, not self.named, count, self.how.found, self.columns)


def recognised(source: SourceConfig, file: str, *, limit: int | None = None) -> Recognised:
    """One of a source's files, in the format that the config names or its first rows have.

    Raises:
        DataError: it holds no rows, cannot be read, or is of no format or several.
    """
    reading = How(source.encoding, source.text_unit, source.sheet)
    rows = rows_of(source, file, reading, limit=limit)
    head = list(islice(rows, formats.SAMPLE_ROWS))
    if not head:
        raise DataError(f"{file}: the file holds no rows")
    name, columns = _format(source, head, file)
    every: Iterator[Row] = chain(head, rows)
    every = with_columns(every, columns, file) if columns else every
    return Recognised(file, name, source.format != "auto", columns, head, every, reading)


def files(source: SourceConfig) -> Iterator[Recognised]:
    """Each of a source's files, opened when the rows of the one before are taken; under its limit all together.

    Raises:
        DataError: as `recognised` does.
    """
    taken = 0

    def counted(rows: Iterator[Row]) -> Iterator[Row]:
        nonlocal taken
        for row in rows:
            taken += 1
            yield row

    for file in files_of(source):
        left = None if source.limit is None else source.limit - taken
        if left == 0:
            return
        found = recognised(source, file, limit=left)
        yield replace(found, rows=counted(found.rows))


def _format(source: SourceConfig, rows: Sequence[Row], file: str) -> tuple[str, dict[str, str]]:
    if source.format != "auto":
        if source.format not in names("format"):
            raise UnknownPart("format", source.format)
        return source.format, {}
    there = dict.fromkeys(key for row in rows if isinstance(row.value, dict) for key in row.value)
    try:
        name = formats.recognise(rows, file)
    except formats.NoFormat:
        columns = {} if source.columns else mapping(there, file)
        if not columns:
            raise
        return formats.recognise(list(with_columns(iter(rows), columns, file)), file), columns
    if name == "text" and not source.columns:
        mapping(there, file)  # a text beside its class may be meant as a question
    return name, {}
