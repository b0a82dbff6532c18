"""What cleaning did, written as it goes: rows kept, rows dropped and why, a line for each decision, a report.

A folder holds `rows.jsonl` (to train on), `dropped.jsonl` (each row whole, to be put back), `ledger.jsonl` (every row
that was changed or dropped) and `report.md` / `report.html`. It appears whole or not at all.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.clean.pipeline import Outcome
from luthier.errors import DataError
from luthier.system.files import write_text

ROWS, DROPPED, LEDGER = "rows.jsonl", "dropped.jsonl", "ledger.jsonl"
EXAMPLES = 10
"""Dropped rows shown of each rule."""


@dataclass(slots=True)
class Tally:
    """What became of rows: how many, by rule; of each rule the scores, the threshold, and the first rows dropped.

    `notes` is what cleaners have to say besides.
    """

    read: int = 0
    kept: int = 0
    mended: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    scores: dict[str, array[float]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        """Take one row into account."""
        self.read += 1
        self.mended.update(outcome.mended)
        drop = outcome.drop
        if drop is None:
            self.kept += 1
            return
        self.dropped[drop.rule] += 1
        self.thresholds[drop.rule] = drop.threshold
        self.scores.setdefault(drop.rule, array("d")).append(drop.score)
        shown = self.examples.setdefault(drop.rule, [])
        if len(shown) < EXAMPLES:
            shown.append((str(outcome.row.origin), drop.detail, json.dumps(outcome.value, ensure_ascii=False)[:600]))


def counted(outcomes: Iterable[Outcome]) -> Tally:
    """What became of rows, where nothing is written."""
    tally = Tally()
    for outcome in outcomes:
        tally.count(outcome)
    return tally


def write(outcomes: Iterable[Outcome], folder: Path) -> Tally:
    """Write rows as they come into a folder that is there."""
    tally = Tally()
    with ExitStack() as files:
        rows, dropped, ledger = (
            files.enter_context((folder / name).open("w", encoding="utf-8")) for name in (ROWS, DROPPED, LEDGER)
        )
        for outcome in outcomes:
            tally.count(outcome)
            where: dict[str, Any] = {"file": outcome.row.origin.file, "line": outcome.row.origin.line}
            if outcome.drop is None:
                rows.write(_json(outcome.value))
            else:
                where |= asdict(outcome.drop)
                dropped.write(_json(where | {"row": outcome.value}))  # mended, so that no secret comes back with it
            if outcome.mended or outcome.drop:
                ledger.write(_json(where | ({"mended": outcome.mended} if outcome.mended else {})))
    return tally


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def restored(folder: Path, rules: Iterable[str]) -> int:
    """Put the rows that some rules dropped back, mended as the others are; how many there were.

    Raises:
        DataError: it is no such folder, or a rule dropped nothing.
    """
    wanted = set(rules)
    try:
        entries = [json.loads(line) for line in (folder / DROPPED).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"{folder}: not a folder that `luthier data clean` wrote: {error.strerror}") from None
    there = {entry["rule"] for entry in entries}
    if unknown := sorted(wanted - there):
        raise DataError(f"{folder}: the rule {unknown[0]!r} dropped nothing; there are: {', '.join(sorted(there))}")
    back = [entry for entry in entries if entry["rule"] in wanted]
    kept = (folder / ROWS).read_text(encoding="utf-8")
    write_text(folder / ROWS, kept + "".join(_json(entry["row"]) for entry in back))
    write_text(folder / DROPPED, "".join(_json(entry) for entry in entries if entry["rule"] not in wanted))
    return len(back)
