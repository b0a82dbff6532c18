"""A source of rows, cleaned into a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from luthier.config import SourceConfig
from luthier.data.clean import ledger, report
from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.ledger import Tally
from luthier.data.clean.pipeline import Cleaning, Outcome
from luthier.data.formats.base import SAMPLE_ROWS
from luthier.data.processor import recognised
from luthier.data.sources import files_of, how, rows_of, with_columns
from luthier.errors import DataError, OutputError


def clean_source(
    source: SourceConfig, cleaners: Sequence[CleanerSettings], output: str | None, *, workers: int = 0
) -> Tally:
    """Clean the rows of a source, each file in its layout; without an output they are only counted.

    Raises:
        DataError: as reading does.
        OutputError: something that no cleaning wrote stands at the output.
    """
    outcomes = _outcomes(source, Cleaning(cleaners, workers=workers))
    if output is None:
        tally = Tally()
        for outcome in outcomes:
            tally.count(outcome)
        return tally
    folder = Path(output)
    if folder.exists() and not (folder / ledger.LEDGER).is_file() and any(folder.iterdir()):
        raise OutputError(f"{folder}: is there, and was not written by `luthier data clean`; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        tally = ledger.write(outcomes, made)
        report.write(tally, made, source=source.path, cleaners=[one.type for one in cleaners])
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return tally


def _outcomes(source: SourceConfig, cleaning: Cleaning) -> Iterator[Outcome]:
    left = source.limit
    for file in files_of(source):
        if left == 0:
            return
        rows = rows_of(source, file, how(source), limit=left)
        head = list(islice(rows, SAMPLE_ROWS))
        if not head:
            raise DataError(f"{file}: the file holds no rows")
        name, columns = recognised(source, head, file)
        every = chain(head, rows)
        for outcome in cleaning.rows(with_columns(every, columns, file) if columns else every, name):
            left = None if left is None else left - 1
            yield outcome
