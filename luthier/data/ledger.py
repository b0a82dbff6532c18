"""The row ledger: every row read has exactly one outcome, and every row that was not kept whole has a reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Literal

from luthier.data.clean.base import Drop
from luthier.data.conversation import Origin
from luthier.errors import DataError, RowError

Outcome = Literal["kept", "dropped", "truncated", "split"]
Side = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one row. `sequences` and `tokens` count what it gives to a batch.

    `mended` are the rules that changed it; a row that was `cleaned` away has what its rule measured, and the threshold.
    """

    file: str
    line: int
    side: Side | None
    outcome: Outcome
    reason: str = ""
    detail: str = ""
    content_id: str = ""
    sequences: int = 0
    tokens: int = 0
    mended: str = ""
    cleaned: bool = False
    score: float = 0.0
    threshold: float = 0.0


class Ledger:
    """Collects entries; `close` proves that they add up to the rows that were read."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.rows_read = 0

    def read(self) -> None:
        """One row was taken from a source."""
        self.rows_read += 1

    def drop(self, origin: Origin, error: RowError, *, side: Side | None = None, content_id: str = "") -> None:
        """The row cannot be used."""
        self.entries.append(Entry(origin.file, origin.line, side, "dropped", error.reason, error.detail, content_id))

    def judge(self, origin: Origin, drop: Drop, *, side: Side, content_id: str = "") -> None:
        """The row is left out as the config says, or, where it is not readable, because it cannot be used."""
        entry = Entry(origin.file, origin.line, side, "dropped", drop.rule, drop.detail, content_id)
        if drop.readable:
            entry = replace(entry, cleaned=True, score=drop.score, threshold=drop.threshold)
        self.entries.append(entry)

    def record(self, entry: Entry) -> None:
        """The row is used, whole or in part."""
        self.entries.append(entry)

    def close(self) -> None:
        """Raise if a row went missing; that would be a fault of Luthier, not of the data."""
        if len(self.entries) != self.rows_read:
            raise DataError(f"the row ledger does not add up: {self.rows_read} read, {len(self.entries)} accounted for")

    def count(self, outcome: Outcome, side: Side | None = None) -> int:
        """Rows with an outcome, on one side or on both."""
        return sum(e.outcome == outcome and side in (None, e.side) for e in self.entries)

    def reasons(self) -> dict[str, int]:
        """Why rows were not kept whole, most frequent first."""
        return dict(Counter(e.reason for e in self.entries if e.reason).most_common())

    def summary(self) -> dict[str, int]:
        """Counts whose outcomes add up to `read`."""
        outcomes: tuple[Outcome, ...] = ("kept", "dropped", "truncated", "split")
        return {"read": self.rows_read} | {outcome: self.count(outcome) for outcome in outcomes}

    def to_json(self) -> str:
        """The ledger as `rows.json` holds it: a summary, and one line per row."""
        lines = ",\n".join(json.dumps(_compact(entry), ensure_ascii=False) for entry in self.entries)
        summary, reasons = json.dumps(self.summary()), json.dumps(self.reasons())
        return f'{{"summary": {summary},\n"reasons": {reasons},\n"rows": [\n{lines}\n]}}\n'


def _compact(entry: Entry) -> dict[str, object]:
    return {key: value for key, value in asdict(entry).items() if value not in ("", 0, None, False)}
