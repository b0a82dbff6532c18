"""Rows through cleaners: mended, looked at in batches (by workers, if there are some), judged in their order.

`Stage` is the one description of what happens to rows before they are judged; what runs it, here or on Ray, decides
only where rows are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Any, Literal

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said, said
from luthier.data.conversation import Content, Row
from luthier.data.formats import base as formats
from luthier.errors import RowError
from luthier.system.workers import Workers

BATCH = 256
"""Rows that are looked at together."""
Place = Literal["here", "ray"]
"""Where rows are looked at: on this machine, or where Ray has its workers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: its value, mended by which rules; its content, if it is kept, else why it is not."""

    row: Row
    value: Any
    mended: tuple[str, ...] = ()
    content: Content | None = None
    drop: Drop | None = None
    content_id: str = ""
    """Of what was read, where that was mended or is not kept."""

    @property
    def said(self) -> Said:
        """What it says, as long as it is kept."""
        assert self.content is not None
        return said(self.content, str(self.row.origin))


@dataclass(frozen=True, slots=True)
class Stage:
    """Cleaners through which rows go together, mended and read in their format."""

    cleaners: tuple[CleanerSettings, ...]
    format: str

    def look(self, outcomes: Sequence[Outcome]) -> list[tuple[Outcome, list[Any]]]:
        """Each row mended and read, and what each cleaner found about it; a function of the rows alone."""
        working = _working(self.cleaners)
        outcomes = [one if one.drop else self._read(one, working) for one in outcomes]
        kept = [one.said for one in outcomes if one.content is not None]
        looked = [cleaner.look(kept) if kept else [] for cleaner in working]
        found = iter(list(zip(*looked, strict=True)) or [()] * len(kept))
        return [(one, list(next(found)) if one.content is not None else []) for one in outcomes]

    def _read(self, outcome: Outcome, working: Sequence[Cleaner]) -> Outcome:
        value, mended = outcome.value, []
        for settings, cleaner in zip(self.cleaners, working, strict=True):
            better = cleaner.mend_row(value)
            if better != value:
                value = better
                mended.append(settings.type)
        if outcome.content is not None and not mended:
            return outcome
        before = outcome.content_id
        if mended and not before:
            with suppress(RowError):
                before = self._content(outcome, outcome.value).content_id
        outcome = replace(outcome, value=value, mended=(*outcome.mended, *mended), content=None, content_id=before)
        try:
            return replace(outcome, content=self._content(outcome, value))
        except RowError as error:
            return replace(outcome, drop=Drop(error.reason, 1.0, 1.0, error.detail, readable=False))

    def _content(self, outcome: Outcome, value: Any) -> Content:
        return formats.read(self.format, replace(outcome.row, value=value))


Batches = Iterator[tuple[Outcome, ...]]
Looked = Iterator[list[tuple[Outcome, list[Any]]]]
Look = Callable[[Stage, Batches], Looked]
"""`Stage.look` of one batch after the other; they come back in their order, wherever they were looked at."""


class Cleaning:
    """Cleaners at work: light ones together, each heavy one by itself, in the order in which they are given.

    What they remember of rows they remember from one file to the next.
    """

    def __init__(self, cleaners: Sequence[CleanerSettings], *, workers: int = 0, on: Place = "here") -> None:
        groups = groupby(cleaners, key=lambda one: (one.heavy, id(one) if one.heavy else 0))
        self.groups = [tuple(group) for _, group in groups] or [()]
        self.judges = [[settings.build() for settings in group] for group in self.groups]
        self.workers, self.on = workers, on
        self.look: Look = lambda stage, batches: map(stage.look, batches)
        self.started = ExitStack()

    def rows(self, rows: Iterable[Row], format: str, *, lenient: bool = False) -> Iterator[Outcome]:
        """What becomes of each row, in order; `lenient`: mended and remembered, but all of them stay."""
        outcomes: Iterator[Outcome] = (Outcome(row, row.value) for row in rows)
        for group, judges in zip(self.groups, self.judges, strict=True):
            looked = self.look(Stage(group, format), _batches(outcomes))
            outcomes = judged(looked, judges, lenient=lenient)
        return outcomes

    def notes(self) -> list[str]:
        """What the cleaners have to say about the rows that they have judged."""
        return [note for group in self.judges for judge in group for note in judge.notes()]

    def __enter__(self) -> Cleaning:
        """Start the workers, which are there for all files."""
        if self.on == "ray":
            from luthier.data.clean.on_ray import ray_workers

            self.look = self.started.enter_context(ray_workers(self.workers))
        else:
            workers = self.started.enter_context(Workers(self.workers))
            self.look = lambda stage, batches: workers.results(stage.look, batches)
        return self

    def __exit__(self, *_: object) -> None:
        self.started.close()
        for cleaner in (*chain(*self.judges), *chain(*_BUILT.values())):
            cleaner.close()
        _BUILT.clear()


def _batches(outcomes: Iterator[Outcome]) -> Batches:
    return iter(lambda: tuple(islice(outcomes, BATCH)), ())


def judged(looked: Looked, judges: Sequence[Cleaner], *, lenient: bool) -> Iterator[Outcome]:
    """Rows in their order; the first cleaner that wants a row gone has the word."""
    for outcome, found in chain.from_iterable(looked):
        if outcome.content is None:
            yield outcome
            continue
        row = outcome.said
        drops = (judge.judge(row, finding) for judge, finding in zip(judges, found, strict=True))
        drop = next((one for one in drops if one is not None and not lenient), None)
        identity = outcome.content_id or outcome.content.content_id
        yield outcome if drop is None else replace(outcome, content=None, drop=drop, content_id=identity)


_BUILT: dict[str, list[Cleaner]] = {}
"""Cleaners of this process, which only look: what they remember is not used."""


def _working(cleaners: tuple[CleanerSettings, ...]) -> list[Cleaner]:
    key = repr(cleaners)
    if key not in _BUILT:
        _BUILT[key] = [settings.build() for settings in cleaners]
    return _BUILT[key]
