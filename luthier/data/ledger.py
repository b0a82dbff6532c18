"""The row ledger: every row read has exactly one outcome, and every row that was not kept whole has a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Literal, get_args

from luthier.data.clean.base import Drop
from luthier.data.conversation import Origin
from luthier.errors import DataError
from luthier.system.files import scratch_database

ROWS = "rows.json"
Outcome = Literal["kept", "dropped", "truncated", "split"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Side = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one row. `sequences` and `tokens` count what it gives to a batch.

    `mended` are the rules that changed it; a row that was `cleaned` away has what its rule measured, and the threshold.
    A row that was not read but made has the file and line of the row it was made of, and the `method`; `made_of` are
    the content ids of all rows that it was made of, or of what a mended row was before.
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
    method: str = ""
    made_of: str = ""


class Ledger:
    """Collects entries, on disk where they are many; `close` proves that they add up to the rows read and made."""

    def __init__(self) -> None:
        self.kept = scratch_database(f"CREATE TABLE entry ({', '.join(COLUMNS)})")
        self.rows_read = self.rows_made = 0
        self.refused: Counter[str] = Counter()
        self.notes: list[str] = []
        """What cleaners have to say besides."""

    def read(self) -> None:
        """One row was taken from a source."""
        self.rows_read += 1

    def make(self) -> None:
        """One row was made of others."""
        self.rows_made += 1

    def refuse(self, rule: str) -> None:
        """A row that was to be made was not, by a guard, or since it cannot be used."""
        self.refused[rule] += 1

    def judge(self, origin: Origin, drop: Drop, *, side: Side, content_id: str = "") -> int:
        """The row is left out as the config says, or, where it is not readable, because it cannot be used."""
        entry = Entry(origin.file, origin.line, side, "dropped", drop.rule, drop.detail, content_id)
        if drop.readable:
            entry = replace(entry, cleaned=True, score=drop.score, threshold=drop.threshold)
        return self.record(entry)

    def record(self, entry: Entry) -> int:
        """The row is used, whole or in part; returns its number, from 0."""
        return (self.kept.execute(INSERT, astuple(entry)).lastrowid or 1) - 1

    @property
    def entries(self) -> Iterator[Entry]:
        """What became of each row, in the order in which that was known."""
        return self.of(*OUTCOMES)

    def of(self, *outcomes: Outcome) -> Iterator[Entry]:
        """The entries with some outcomes."""
        wanted = json.dumps(outcomes)
        chosen = "SELECT * FROM entry WHERE outcome IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        for values in self.kept.execute(chosen, (wanted,)):
            entry = Entry(*values)
            yield replace(entry, cleaned=bool(entry.cleaned))

    def close(self) -> None:
        """Raise if a row went missing; that would be a fault of Luthier, not of the data."""
        (accounted,) = self.kept.execute("SELECT COUNT(*) FROM entry").fetchone()
        if accounted != self.rows_read + self.rows_made:
            made = f" and {self.rows_made} made" if self.rows_made else ""
            raise DataError(f"the row ledger does not add up: {self.rows_read} read{made}, {accounted} accounted for")

    def count(self, outcome: Outcome, side: Side | None = None) -> int:
        """Rows with an outcome, on one side or on both."""
        own = "SELECT COUNT(*) FROM entry WHERE outcome = ? AND (? IS NULL OR side = ?)"
        return int(self.kept.execute(own, (outcome, side, side)).fetchone()[0])

    def reasons(self) -> dict[str, int]:
        """Why rows were not kept whole, most frequent first."""
        counts = (
            "SELECT reason, COUNT(*) FROM entry WHERE reason > '' GROUP BY reason ORDER BY COUNT(*) DESC, MIN(rowid)"
        )
        return dict(self.kept.execute(counts))

    def summary(self) -> dict[str, int]:
        """Counts whose outcomes add up to `read`, and to `made` where rows were."""
        new = {"made": self.rows_made, "refused": self.refused.total()} if self.rows_made or self.refused else {}
        return {"read": self.rows_read} | new | {outcome: self.count(outcome) for outcome in OUTCOMES}

    def to_json(self) -> Iterator[str]:
        """The ledger as `rows.json` holds it, in pieces: a summary, and one line per row."""
        besides: dict[str, object] = {"refused": dict(self.refused.most_common())} if self.refused else {}
        besides |= {"notes": "; ".join(self.notes)} if self.notes else {}
        rows = map(_compact, self.entries)
        return written({"summary": self.summary(), "reasons": self.reasons(), **besides, "rows": rows})


def written(ledger: Mapping[str, object]) -> Iterator[str]:
    """What `rows.json` holds as text, in pieces: a line for each row, for grep and diff."""
    before = "{"
    for key, value in ledger.items():
        yield f'{before}"{key}": '
        before = ",\n"
        if isinstance(value, list | Iterator):
            yield "["
            yield from (
                f"{',' if number else ''}\n{json.dumps(row, ensure_ascii=False)}" for number, row in enumerate(value)
            )
            yield "\n]"
        else:
            yield json.dumps(value)
    yield "}\n"


COLUMNS = tuple(field.name for field in fields(Entry))
INSERT = f"INSERT INTO entry VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - nothing but question marks


def _compact(entry: Entry) -> dict[str, object]:
    return {key: value for key, value in asdict(entry).items() if value not in ("", 0, None, False)}
