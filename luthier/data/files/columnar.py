"""Parquet, and Arrow as a file, a stream, or what `datasets` saves: rows of typed columns, a batch at a time."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

from luthier.data.files.base import How
from luthier.data.files.opened import Opened
from luthier.errors import DataError
from luthier.supplies import library

BATCH = 256
"""Rows held at a time."""


class Columnar:
    """Rows as objects; the number of a row stands for its line."""

    suffixes = (".parquet", ".arrow", ".feather")

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each row with its number."""
        if file.packed:
            raise DataError(f"{file}: unpack it first; {file.suffix} is packed inside already")
        pa = library("pyarrow", f"a {file.suffix} file", "data")
        number = 0
        try:
            for batch in _batches(pa, file):
                twice = next((name for name in batch.schema.names if batch.schema.names.count(name) > 1), None)
                if twice is not None:
                    raise DataError(f"{file}: two columns are called {twice!r}; rename one")
                for start in range(0, batch.num_rows, BATCH):
                    for row in batch.slice(start, BATCH).to_pylist():
                        number += 1
                        yield number, {key: plain(value, f"{file}:{number}: {key}") for key, value in row.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read after {number} rows: {error}; is it cut off?") from None
        if not number:
            raise DataError(f"{file}: the file is empty")


def _batches(pa: Any, file: Opened) -> Iterator[Any]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(file.path) as table:
            yield from table.iter_batches(batch_size=BATCH)
        return
    with pa.memory_map(str(file.path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
            return
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def plain(value: Any, where: str) -> Any:
    """A value as JSON has it: times as ISO 8601, exact numbers as text; bytes have no place in a text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(inner, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, where) for inner in value]
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    raise DataError(f"{where}: a {type(value).__name__}, which is no JSON value")
