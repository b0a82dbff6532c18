"""A source of rows, cleaned into a folder."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from luthier.config import SourceConfig
from luthier.data.clean import ledger, report
from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.ledger import Tally
from luthier.data.clean.pipeline import Cleaning, Outcome, Place
from luthier.data.recognise import files
from luthier.data.sources import files_of
from luthier.errors import OutputError
from luthier.system.files import atomic_folder

FILES = {ledger.ROWS, ledger.DROPPED, ledger.LEDGER, "report.md", "report.html"}
"""What an output holds."""


def clean_source(
    source: SourceConfig,
    cleaners: Sequence[CleanerSettings],
    output: str | None,
    *,
    workers: int = 0,
    on: Place = "here",
    watch: Callable[[int], object] = lambda rows: None,
) -> Tally:
    """Clean the rows of a source, each file in its layout; without an output they are only counted.

    `watch` is told how many rows are done, each time that there are a hundred more.

    Raises:
        DataError: as reading does.
        OutputError: something that no cleaning wrote stands at the output.
    """
    if output is not None:
        require_ours(Path(output), source, FILES, "clean")
    folder = nullcontext() if output is None else atomic_folder(Path(output))
    with Cleaning(cleaners, workers=workers, on=on) as cleaning, folder as made:
        outcomes = _watched(outcomes_of(source, cleaning), watch)
        tally = ledger.counted(outcomes) if made is None else ledger.write(outcomes, made)
        tally.notes = cleaning.notes()
        if made is not None:
            report.write(tally, made, source=source.path, cleaners=[one.type for one in cleaners])
    return tally


def _watched(outcomes: Iterator[Outcome], watch: Callable[[int], object]) -> Iterator[Outcome]:
    for number, outcome in enumerate(outcomes, 1):
        if number % 100 == 0:
            watch(number)
        yield outcome


def require_ours(folder: Path, source: SourceConfig, ours: Container[str], verb: str) -> None:
    """Refuse an output that holds anything but an earlier one of the same verb, or that is read from."""
    if folder.exists():
        others = [file.name for file in folder.iterdir() if file.name not in ours] if folder.is_dir() else [folder.name]
        if others:
            raise OutputError(
                f"{folder}: holds {others[0]}, which `luthier data {verb}` did not write; name another folder"
            )
    for file in files_of(source):
        if folder.resolve() in Path(file).resolve().parents:
            raise OutputError(f"{folder}: {file} is read from there, and would be replaced; name another folder")


def outcomes_of(source: SourceConfig, cleaning: Cleaning | None = None) -> Iterator[Outcome]:
    """What becomes of a source's rows, each file in its layout; without cleaners, whether they can be read."""
    for found in files(source):
        yield from (cleaning or Cleaning(())).rows(found.rows, found.format)
