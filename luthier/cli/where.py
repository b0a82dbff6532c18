"""`luthier data where ROW`: which runs saw a row, in which steps, on which side, or why they dropped it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.source import FORMAT, source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.data.lineage import Sighting

CONTENT_ID = re.compile("[0-9a-f]{16}")
SHOWN = 12
"""Ranges of steps that are printed of a row."""


def where(
    row: Annotated[
        str, typer.Argument(help="file:line, a content id of rows.json, or `-`: rows on standard input.", metavar="ROW")
    ],
    *,
    root: Annotated[str, typer.Option("--runs", help="The folder in which runs are looked for.")] = "runs",
    format: Annotated[str, FORMAT] = "auto",
) -> None:
    """Tell which runs saw a row, in which steps, on which side, or why it was dropped; under any file's name."""
    from luthier.cli import show
    from luthier.data.lineage import descents, runs, sightings

    found, ids, place = runs(Path(root)), *_asked(row, format)
    show.console.print(
        f"content id   {', '.join(sorted(ids)) or 'none, so it is looked for by its place'}", markup=False
    )
    lines: list[tuple[object, ...]] = []
    for run in found:
        lines += [(run, f"{seen.row['file']}:{seen.row['line']}", _fate(seen)) for seen in sightings(run, ids, place)]
        for descent in descents(run):
            before = [seen for seen in sightings(descent.parent, ids, place) if not seen.moved]
            if any(step <= descent.last for seen in before for step in seen.steps):
                lines.append((run, "", f"through {descent.parent}, which it began from"))
    if lines:
        show.table("", ("run", "row", "what became of it"), lines)
    else:
        show.console.print(f"none of {len(found)} runs below {root} read this row", markup=False)


def _fate(seen: Sighting) -> str:
    from luthier.data.lineage import kept_step

    row, kept = seen.row, kept_step(seen.run)
    if seen.moved:
        return f"another row stood there: {row['content_id']}"
    if row["outcome"] == "dropped":
        return f"dropped: {row['reason']}: {row.get('detail', '')}"
    how = "".join(
        f", {text}" for text in (row.get("mended") and f"mended by {row['mended']}", row.get("detail")) if text
    )
    if row["side"] == "held_out":
        return f"held out, never learnt{how}"
    if not seen.steps:
        return f"to be trained on, in no step yet{how}"
    late = f"; its weights are those of step {kept:.0f}" if max(seen.steps) > kept else ""
    return f"learnt in {_listed(seen.steps)}{late}{how}"


def _listed(steps: Sequence[int]) -> str:
    from luthier.data.lineage import ranges

    found = [f"{one[0]}-{one[1]}" if isinstance(one, list) else str(one) for one in ranges(steps)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"step{'s' if len(steps) > 1 else ''} " + ", ".join(found[:SHOWN]) + more


def _asked(row: str, format: str) -> tuple[frozenset[str], tuple[str, int] | None]:
    """The content ids of what is asked about, and its place.

    Raises:
        DataError: it is none of the three, or the file has no such line.
    """
    from luthier.data.formats.base import read
    from luthier.data.recognise import recognised
    from luthier.errors import DataError, RowError

    file, _, line = row.rpartition(":")
    if CONTENT_ID.fullmatch(row):
        return frozenset([row]), None
    if row != "-" and not (file and line.isdigit()):
        raise DataError(f"{row}: name a row as file:line, by its content id (16 hex digits of rows.json), or `-`")
    place = None if row == "-" else (file, int(line))
    if place is not None and not Path(file).exists():
        return frozenset(), place
    found = recognised(source_of("-" if place is None else file, format, ()), file or "-")
    ids, there = set(), place is None
    for one in found.rows:
        if place is not None and one.origin.line > place[1]:
            break
        if place is None or one.origin.line == place[1]:
            there = True
            try:
                ids.add(read(found.format, one).content_id)
            except RowError:
                continue
    if not there:
        raise DataError(f"{row}: no row begins on this line; `luthier data show {file}` prints rows with their lines")
    return frozenset(ids), place
