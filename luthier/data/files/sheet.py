"""XLSX: the rows of one sheet, whose first row names the columns."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

from luthier.data.files.base import How
from luthier.data.files.columnar import plain
from luthier.data.files.opened import Opened
from luthier.data.files.table import names_of
from luthier.errors import DataError
from luthier.supplies import library


class Sheet:
    """Rows as objects; empty cells are null, and rows with nothing in them are no rows."""

    suffixes = (".xlsx",)

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each row with its number in the sheet."""
        if file.packed:
            raise DataError(f"{file}: unpack it first; a sheet is packed inside already")
        _no_bomb(file)
        calamine = library("python_calamine", "an .xlsx file", "data", called="python-calamine")
        try:
            with calamine.load_workbook(str(file.path)) as book:
                sheet = book.get_sheet_by_name(_chosen(book, file, how))
                rows = list(sheet.iter_rows())
                first = (sheet.start or (0, 0))[0] + 1
        except (calamine.CalamineError, OSError) as error:
            raise DataError(f"{file}: cannot be read: {error}; is it cut off?") from None
        filled = [(number, row) for number, row in enumerate(rows, first) if any(cell != "" for cell in row)]
        if not filled:
            raise DataError(f"{file}: the sheet is empty")
        names = names_of([str(cell) for cell in filled[0][1]], f"{file}:{filled[0][0]}")
        for number, row in filled[1:]:
            cells = zip(names, row, strict=False)
            where = f"{file}:{number}"
            yield number, {name: None if cell == "" else plain(cell, f"{where}: {name}") for name, cell in cells}


def _chosen(book: Any, file: Opened, how: How) -> str:
    there: list[str] = list(book.sheet_names)
    filled = [name for name in there if book.get_sheet_by_name(name).height] if how.sheet is None else [how.sheet]
    if len(filled) > 1:
        raise DataError(f"{file}: rows in several sheets ({', '.join(filled)}); name one: {{path: ..., sheet: ...}}")
    chosen = filled[0] if filled else there[0]
    if chosen not in there:
        raise DataError(f"{file}: no sheet {chosen!r}; there are {', '.join(there)}")
    how.note = f"sheet {chosen!r}"
    return chosen


def _no_bomb(file: Opened) -> None:
    try:
        with zipfile.ZipFile(file.path) as archive:
            large = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}; is it cut off?") from None
    file.require_no_bomb(large)
