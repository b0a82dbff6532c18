"""`luthier data where ROW`: which runs and models a row is in, in which steps, on which side, or why it was dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.source import source_of

if TYPE_CHECKING:
    from luthier.data.lineage import Sighting

SHOWN = 12
"""Ranges of steps that are printed of a row."""


def where(
    row: Annotated[
        str, typer.Argument(help="file:line, a content id of rows.json, or `-`: rows on standard input.", metavar="ROW")
    ],
    *,
    root: Annotated[str, typer.Option("--runs", help="The folder in which runs are looked for.")] = "",
) -> None:
    """Tell which runs and models a row is in, in which steps, or why it was dropped; under any file's name."""
    from luthier.cli import show
    from luthier.data.lineage import ancestors, family, sightings
    from luthier.registry.index import Registry
    from luthier.registry.lineage import made_of

    registry, (ids, place) = Registry(), _asked(row)
    versions = {registry.folder(one).resolve(): one for one in registry.versions()}
    found = _known([*(Path(run.folder) for run in registry.runs()), *versions], root)
    show.console.print(
        f"content id   {', '.join(sorted(ids)) or 'none, so it is looked for by its place'}", markup=False
    )
    ids = family(found, ids)
    lines: dict[tuple[str, ...], None] = {}
    for run in found:
        version = versions.get(run.resolve())
        name = version.uri if version else str(run)
        here = sightings(run, ids, place)
        lines |= {(name, f"{seen.row['file']}:{seen.row['line']}", _fate(seen)): None for seen in here}
        for parent, last in ancestors(run):
            before = [seen for seen in sightings(parent, ids, place) if not seen.moved]
            if any(step <= last for seen in before for step in seen.steps):
                above = versions.get(parent.resolve())
                lines[name, "", f"through {above.uri if above else parent}, which it began from"] = None
        if version and any(seen.steps for seen in here):
            lines |= {(one.uri, "", f"{one.made}, through {name}"): None for one in made_of(registry, version)}
    if lines:
        show.table("", ("run", "row", "what became of it"), list(lines))
    else:
        where = f"below {root or 'runs'} and in the index"
        show.console.print(f"none of {len(found)} runs {where} read this row", markup=False)


def _known(indexed: Sequence[Path], root: str) -> list[Path]:
    """The runs below a folder, and those of the index that are elsewhere; raises DataError where there are none."""
    from luthier.data.lineage import runs
    from luthier.errors import DataError
    from luthier.tracking.run import RunFolder

    elsewhere = {folder.resolve(): folder for folder in indexed if RunFolder(folder).record()}
    try:
        below = {folder.resolve(): folder for folder in runs(Path(root or "runs"))}
    except DataError:
        if root or not elsewhere:
            raise
        below = {}
    return list((below | {place: folder for place, folder in elsewhere.items() if place not in below}).values())


def _fate(seen: Sighting) -> str:
    from luthier.data.lineage import kept_step, ranges

    row, steps, kept = seen.row, seen.steps, kept_step(seen.run)
    made = f" (a row made of it: {row['method']})" if row.get("method") else ""
    if seen.moved:
        return f"another row stood there: {row['content_id']}"
    if row["outcome"] == "dropped":
        return f"dropped: {row['reason']}: {row.get('detail', '')}"
    if row["side"] == "held_out":
        return "held out, never learnt"
    if not steps:
        return f"to be trained on, in no step yet{made}"
    found = [f"{one[0]}-{one[1]}" if isinstance(one, list) else str(one) for one in ranges(steps)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    late = f"; the run kept the weights of step {kept:.0f}" if steps[-1] > kept else ""
    return f"learnt in step{'s' if len(steps) > 1 else ''} {', '.join(found[:SHOWN])}{more}{late}{made}"


def _asked(row: str) -> tuple[frozenset[str], tuple[str, int] | None]:
    """The content ids of what is asked about, and its place.

    Raises:
        DataError: it is none of the three, or the file has no such line.
    """
    from luthier.data.formats.base import read
    from luthier.data.recognise import recognised
    from luthier.errors import DataError, RowError

    if re.fullmatch("[0-9a-f]{16}", row):
        return frozenset([row]), None
    file, _, line = row.rpartition(":")
    if row != "-" and not (file and line.isdigit()):
        raise DataError(f"{row}: name a row as file:line, by its content id (16 hex digits of rows.json), or `-`")
    place = None if row == "-" else (file, int(line))
    if place is not None and not Path(file).exists():
        return frozenset(), place
    found = recognised(source_of(file or "-", "auto", ()), file or "-")
    until = takewhile(lambda one: place is None or one.origin.line <= place[1], found.rows)
    rows = [one for one in until if place is None or one.origin.line == place[1]]
    if not rows:
        raise DataError(f"{row}: no row begins on this line; `luthier data show {file}` prints rows with their lines")
    ids = set()
    for one in rows:
        with suppress(RowError):
            ids.add(read(found.format, one).content_id)
    return frozenset(ids), place
