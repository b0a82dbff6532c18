"""Which steps of which runs learnt a row: what runs write down, and where a row is looked up in them.

A run's `steps.jsonl` holds a line for each step that was made, with the numbers of its rows in `rows.json`; at the end
`rows.json` says of each row in which steps it was. A run that goes on with other data keeps the rows it had under
`earlier`, and numbers its own behind them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.data.ledger import ROWS, written
from luthier.errors import DataError, ModelError
from luthier.registry.index import place_of
from luthier.system.files import write_text
from luthier.tracking.jsonl import lines
from luthier.tracking.run import RUN, RunFolder

STEPS = "steps.jsonl"
CHECKPOINT = "checkpoint-"
FOLDED_BYTES = 2**25
"""Largest ledger that is read into memory to be written anew."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row in the ledger of a run, and the steps that learnt it; `moved`: another row than this stands there now."""

    run: Path
    row: Mapping[str, Any]
    steps: Sequence[int]
    moved: bool


def fold(folder: Path) -> None:
    """Write into a run's rows.json in which steps each row was learnt; where it is large, only steps.jsonl says so."""
    if (folder / ROWS).stat().st_size > FOLDED_BYTES:
        return
    tree, seen = _ledger(folder), _seen(folder)
    for number, row in enumerate(_rows(tree)):
        row.pop("steps", None)
        row.update({"steps": ranges(seen[number])} if number in seen else {})
    if seen:
        write_text(folder / ROWS, written(tree))


def carried(folder: Path, ledger: Iterable[str]) -> Iterable[str]:
    """The ledger of a run that goes on with other data, behind the rows that it had before."""
    ledger = "".join(ledger)
    before, tree = _ledger(folder), json.loads(ledger)
    had = [{key: value for key, value in row.items() if key != "steps"} for row in _rows(before)]
    kept = len(before.get("earlier", ()))
    earlier = had[:kept] if had[kept:] == tree["rows"] else had  # else it was the config alone that changed
    return written({"before": len(earlier)} | tree | {"earlier": earlier}) if earlier else [ledger]


def first_number(folder: Path) -> int:
    """How many rows a run had before its data changed; stands at the beginning of rows.json, which may be large."""
    try:
        with (folder / ROWS).open(encoding="utf-8") as file:
            found = re.match(r'\{"before": (\d+)', file.readline())
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0


def ranges(steps: Sequence[int]) -> list[int | list[int]]:
    """Steps in order, those in a row as [first, last]; a row that is twice in a step has it twice."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return [run if run[0] < run[1] else run[0] for run in runs]


def _ledger(folder: Path) -> dict[str, Any]:
    """What rows.json holds; raises DataError where it cannot be read, since rows would seem never to have been seen."""
    try:
        tree = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rows": []}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / ROWS}: cannot be read: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("rows"), list):
        raise DataError(f"{folder / ROWS}: not a ledger of rows")
    return tree


def _rows(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*tree.get("earlier", ()), *tree["rows"]]


def _seen(folder: Path) -> dict[int | str, list[int]]:
    """The steps of each row by its number; of a stream, by what it says and where it stands."""
    seen: dict[int | str, list[int]] = {}
    for line in lines(folder / STEPS) if (folder / STEPS).exists() else ():
        for row in line["rows"]:
            seen.setdefault(row, []).append(line["step"])
    return seen


def runs(root: Path) -> list[Path]:
    """The runs below a folder, itself included.

    Raises:
        DataError: there is none.
    """
    found = sorted(file.parent for file in root.rglob(RUN) if RunFolder(file.parent).record() is not None)
    if not found:
        raise DataError(
            f"{root}: no run of Luthier there (no {RUN}); name the folder that your runs are in with --runs"
        )
    return found


def family(runs: Iterable[Path], ids: frozenset[str]) -> frozenset[str]:
    """The content ids of some rows and of all that cleaning and augmentation made of them, and of those."""
    made = [
        (set(row["made_of"].split()), row["content_id"])
        for run in (runs if ids else ())
        for row in _rows(_ledger(run))
        if row.get("made_of") and row.get("content_id")
    ]
    while more := {identity for sources, identity in made if sources & ids} - ids:
        ids |= more
    return ids


def sightings(run: Path, ids: frozenset[str], place: tuple[str, int] | None) -> list[Sighting]:
    """The entries of a run's ledger with one of these content ids, and those of a place that `file:line` names."""
    found = []
    for number, row in enumerate(_rows(_ledger(run))):
        same = row.get("content_id") in ids or any(one in ids for one in row.get("made_of", "").split())
        if same or (place is not None and row["line"] == place[1] and _same_file(row["file"], place[0])):
            found.append((number, row, bool(ids and not same and "content_id" in row and "mended" not in row)))
    seen = _seen(run)
    told = [Sighting(run, row, seen.get(number, ()), moved) for number, row, moved in found]
    for key in (key for key in seen if isinstance(key, str)):  # of a stream
        identity, _, where = key.partition(" ")
        file, _, line = where.rpartition(":")
        if identity in ids or (place is not None and int(line) == place[1] and _same_file(file, place[0])):
            row = {"file": file, "line": int(line), "side": "train", "outcome": "kept", "content_id": identity}
            told = [one for one in told if one.row.get("content_id") != identity]  # which was looked at before
            told.append(Sighting(run, row, seen[key], moved=False))
    return told


def ancestors(run: Path) -> Iterator[tuple[Path, float]]:
    """The runs that a run began from, nearest first, each with the step whose weights it gave."""
    here, known = run, {run.resolve()}
    while (record := RunFolder(here).record()) is not None:
        try:
            start = place_of(str(record["config"].get("model", {}).get("path", "")))
        except ModelError:  # a version that was deleted
            return
        _, checkpoint, step = start.name.partition(CHECKPOINT)
        here = start.parent if checkpoint else start
        if not (here / RUN).is_file() or here.resolve() in known:
            return
        known.add(here.resolve())
        yield here, float(step) if step.isdigit() else kept_step(here)


def kept_step(run: Path) -> float:
    """The step whose weights a run ended with; infinite as long as it has not."""
    try:
        return float(json.loads((run / "metrics.json").read_text(encoding="utf-8"))["final_step"])
    except (OSError, ValueError, LookupError, TypeError):
        return math.inf


@lru_cache(maxsize=1024)
def _same_file(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()
