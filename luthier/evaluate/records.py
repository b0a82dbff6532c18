"""What was found, row by row: records, written down as they come, so that a measurement that was killed goes on."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from luthier.data.clean.base import said
from luthier.data.language import language
from luthier.data.pack import Example
from luthier.errors import MissingExtra
from luthier.evaluate.kinds import Found
from luthier.evaluate.metrics import total_of
from luthier.system.files import PREFIX, refused_writes_of, write_text

LENGTHS = ((200, "short"), (1000, "medium"))
"""Most characters of rows of a length; longer ones are long."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a kind of evaluation found of one row. Rows that say the same have one `row`, counted behind it.

    `counts` are statistics by metric, `slices` what groups the row is in, `check` as in `Found`.
    """

    file: str
    kind: str
    row: str
    where: str
    question: str
    reference: str
    answer: str
    counts: dict[str, list[float]]
    slices: dict[str, str]
    check: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about."""
        return self.file, self.kind, self.row

    @property
    def scores(self) -> dict[str, float]:
        """Each metric of this row alone."""
        return {name: float(total_of(name)(np.asarray(counts))) for name, counts in self.counts.items()}


class Rows:
    """The rows of a file under names that another model's rows have too."""

    def __init__(self, file: str, examples: Sequence[Example]) -> None:
        self.file, seen = file, Counter[str]()
        self.names, self.asked, self.slices = list[str](), list[str](), list[dict[str, str]]()
        for example in examples:
            seen[example.content_id] += 1
            words = said(example.content, "")
            length = next((name for most, name in LENGTHS if len(words.text) <= most), "long")
            groups = {"source": example.origin.file, "length": length}
            with suppress(MissingExtra):
                groups["language"] = language(words.text)[0] or "none"
            groups |= {"subject": subject} if (subject := getattr(example.content, "subject", "")) else {}
            self.names.append(f"{example.content_id}.{seen[example.content_id]}")
            self.asked.append(words.question)
            self.slices.append(groups)
        self.examples = examples

    def record(self, i: int, kind: str, found: Found) -> Record:
        """What was found of the row at a place."""
        where, asked = str(self.examples[i].origin), self.asked[i]
        told = (found.reference, found.answer, found.counts, self.slices[i], found.check, found.more)
        return Record(self.file, kind, self.names[i], where, asked, *told)


class Journal:
    """Records on their way to a file: each portion is appended beside it, and the file appears when all are there."""

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path, self.records = path, dict[tuple[str, str, str], Record]()
        self.file: IO[str] | None = None
        if path is None:
            return
        with refused_writes_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft, head = _draft(path), json.dumps(about, sort_keys=True)
            lines = draft.read_text(encoding="utf-8").splitlines() if draft.exists() else []
            kept = lines[1:] if lines[:1] == [head] else []
            for line in kept:
                with suppress(ValueError):  # a line that was being written when it was killed
                    told = json.loads(line)
                    told.pop("scores")
                    record = Record(**told)
                    self.records[record.key] = record
            write_text(draft, [f"{head}\n", *(_line(record) for record in self.records.values())])
            self.file = draft.open("a", encoding="utf-8")

    def add(self, records: Iterable[Record]) -> None:
        """Write down a portion."""
        new = list(records)
        self.records |= {record.key: record for record in new}
        if self.file is not None and self.path is not None:
            with refused_writes_of(self.path):
                self.file.writelines(map(_line, new))
                self.file.flush()

    def finish(self, records: Iterable[Record]) -> None:
        """All are there, in the order in which they are to stand."""
        if self.file is not None and self.path is not None:
            self.file.close()
            write_text(self.path, map(_line, records))
            _draft(self.path).unlink()


def _draft(path: Path) -> Path:
    return path.with_name(f"{PREFIX}{path.name}.part")


def _line(record: Record) -> str:
    return json.dumps(asdict(record) | {"scores": record.scores}, ensure_ascii=False) + "\n"


def totals(records: Iterable[Record]) -> dict[str, float]:
    """Each metric over all rows that have it."""
    sums: dict[str, Any] = {}
    for record in records:
        for name, counts in record.counts.items():
            sums[name] = sums.get(name, 0) + np.asarray(counts, dtype=np.float64)
    return {name: float(total_of(name)(counts)) for name, counts in sums.items()}


def by_slice(records: Iterable[Record]) -> dict[str, dict[str, list[Record]]]:
    """Records by source, language, length and subject of their rows, where there are several of them."""
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for name, value in record.slices.items():
            groups[name][value].append(record)
    return {name: dict(values) for name, values in groups.items() if len(values) > 1}
