"""CSV and TSV after RFC 4180: the first row names the columns, every row has as many fields, quotes protect.

The delimiter is the one that cuts the header and most first rows into equally many fields; two are refused. What the
standard leaves open is not guessed at: a row with other fields than the header, text behind a closing quote and an
open quote are errors with their line. A file of questions, options and letters needs no header.
"""

from __future__ import annotations

import csv
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from luthier.data.files.base import How
from luthier.data.files.opened import LARGEST_ROW, TOO_LONG, Opened, RowTooLong
from luthier.data.files.text import beginning
from luthier.errors import DataError

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}
LOOKED_AT = 50
"""Records from which the delimiter is told."""


class Table:
    """Rows as objects of strings."""

    suffixes = (".csv", ".tsv")

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each row with the line it starts on."""
        head, source = beginning(file, how, LOOKED_AT * 4)
        delimiter = "\t" if file.suffix == ".tsv" else _delimiter(head, str(file))
        records = _records(source, delimiter, str(file))
        first = list(islice(records, LOOKED_AT))
        names, note = choices([fields for _, fields in first]), "no header, as MMLU has none"
        if not names:
            names, note = names_of(first.pop(0)[1], f"{file}:1"), ""
        records = chain(first, records)
        between = f"{next(k for k, v in DELIMITERS.items() if v == delimiter)}s between columns"
        how.note = f"{between}; {note}" if note else between
        for line, fields in records:
            if len(fields) != len(names):
                raise DataError(
                    f"{file}:{line}: {len(fields)} fields, and the header names {len(names)}; a field that holds "
                    f"{delimiter!r} or a line break must stand in double quotes"
                )
            yield line, dict(zip(names, fields, strict=True))


def choices(records: Sequence[Sequence[str]]) -> list[str]:
    """Names of the columns where every record, the first too, is a question, three options or more and a letter."""
    width = len(records[0])
    letters = list(string.ascii_uppercase[: width - 2])
    told = all(len(one) == width and one[-1].strip() in letters for one in records)
    return ["question", *letters, "answer"] if told and len(records) > 1 and len(letters) > 2 else []


def _records(source: Iterable[str], delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not an empty line, with its first line."""
    csv.field_size_limit(LARGEST_ROW)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "field larger" in str(error):
                raise RowTooLong(f"{name}:{line}: {TOO_LONG}") from None
            raise DataError(f"{name}:{line}: not valid CSV: {error}; text with quotes must stand in quotes") from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _delimiter(head: Sequence[str], name: str) -> str:
    """What cuts the header into several names, and most records into as many fields; a comma where nothing does."""
    agreeing = {}
    for kind, delimiter in DELIMITERS.items():
        width, *others = _widths(head, delimiter) or [1]
        if width > 1:
            agreeing[kind] = sum(other == width for other in others) / max(len(others), 1)
    best = [kind for kind, share in agreeing.items() if share == max(agreeing.values())]
    if len(best) > 1:
        header = {kind: next(csv.reader(iter(head), delimiter=DELIMITERS[kind])) for kind in best}
        best = [kind for kind in best if all(field.strip().isidentifier() for field in header[kind])]
        if len(best) != 1:
            raise DataError(f"{name}: {' or '.join(f'{kind}s' for kind in header)} may be between columns; use a .tsv")
    return DELIMITERS[next(iter(best), "comma")]


def _widths(head: Sequence[str], delimiter: str) -> list[int]:
    """Fields of the first records; none where they are no CSV with this delimiter."""
    widths = []
    reader = csv.reader(iter(head), delimiter=delimiter, strict=True)
    try:
        for fields in islice(reader, LOOKED_AT):
            if fields:
                widths.append(len(fields))
    except csv.Error:
        return widths if reader.line_num >= len(head) else []  # a record that the lines looked at cut off
    return widths


def names_of(fields: Sequence[str], where: str) -> list[str]:
    """Names of columns; one without has its number. Raises DataError where two are called the same."""
    names = [field if field.strip() else f"column {number}" for number, field in enumerate(fields, 1)]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: two columns are called {twice!r}; rename one")
    return names
