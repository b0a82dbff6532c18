"""The data processor: files -> rows -> sides -> token sequences, every row accounted for.

Replaceable: `Factory(data=...)` takes any `DataProcessorLike`.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from luthier.config import DataConfig, SourceConfig
from luthier.data.augment.base import AugmenterSettings, GuardSettings
from luthier.data.augment.rewrite import layout_of, reads_as_itself, value_of
from luthier.data.augment.run import augmented
from luthier.data.clean.base import CleanerSettings, Drop, said
from luthier.data.clean.pipeline import BATCH, Cleaning, Outcome
from luthier.data.ledger import Entry, Ledger, Side
from luthier.data.making import Making, Renders
from luthier.data.pack import Example
from luthier.data.recognise import Reading, files
from luthier.data.render import Renderer
from luthier.data.sources import files_of, resolved
from luthier.data.split import held_out, identities, strata, times
from luthier.data.store import ReadRow, ReadRows, RenderedRow, Rows, Store, fingerprint, identities_of, kept
from luthier.data.stream import SAMPLE, Rendering, Stream
from luthier.errors import DataError, StorageError

KEPT_BYTES = 2**24
"""Size of files from which on rendered rows are kept for the next run."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rendered rows of both sides, the ledger, and what was decided about each file."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    ledger: Ledger
    readings: list[Reading]


class DataProcessorLike(Protocol):
    """What `Factory(data=...)` takes."""

    def prepare(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        """Rendered rows of both sides, every row accounted for."""


class DataProcessor:
    """The built-in data processor."""

    def prepare(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        """Read, split and render.

        Raises:
            DataError: a file cannot be read, or no row is left to train on.
            StorageError: the disk refused to hold the rows.
        """
        try:
            return (self._sampled if config.streaming else self._prepared)(config, renderer, objective)
        except sqlite3.Error as error:
            raise StorageError(f"rows cannot be kept on disk: {error}; free space, or set data.cache=false") from error

    def _prepared(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        ledger, readings = Ledger(), list[Reading]()
        store = _store(config, renderer, objective)
        rows, held = ReadRows(store), ReadRows(store)
        with Cleaning(cast(list[CleanerSettings], config.clean), workers=config.workers) as cleaning:
            if isinstance(config.held_out, list):  # first, so that training rows which repeat them are the ones to go
                self.read(config.held_out, held, ledger, readings, side="held_out", cleaning=cleaning)
            self.read(config.train, rows, ledger, readings, cleaning=cleaning)
        ledger.notes = cleaning.notes()
        apart = _apart(config, rows)
        if config.augment:
            _augment(config, rows, apart, held, ledger)
            apart = np.append(apart, np.zeros(len(rows) - len(apart), dtype=bool))
        parts: dict[Side, Rows] = {"train": Rows(rows), "held_out": Rows(held if len(held) else rows)}
        with Making(renderer, objective, config) as making:
            for group, held_back in ((rows, apart), (held, np.ones(len(held), dtype=bool))):
                seen = array("H", (_times(row, held_out=bool(held_back[row.place])) for row in group))
                wanted = (row.id if seen[row.place] else None for row in group)
                for row, rendered in zip(group, making.rendered(store, wanted), strict=True):
                    side: Side = "held_out" if held_back[row.place] else "train"
                    if row.method and (why := _refusal(rendered, config)):
                        ledger.refuse(why)
                        continue
                    number = _account(row, side, rendered, ledger)
                    if rendered is not None and rendered.sequences:
                        parts[side].add(row, rendered, number, times=seen[row.place])
        ledger.close()
        if not parts["train"]:
            counts = [f"{count} x {reason}" for reason, count in ledger.reasons().items()]
            why = ", ".join(counts) or "the files are empty"
            first = next((e for e in ledger.of("dropped") if e.side == "train"), None)
            where = f"; first: {first.file}:{first.line}: {first.detail}" if first else ""
            raise DataError(f"no row is left to train on ({ledger.rows_read} read; {why}){where}")
        return Prepared(parts["train"].held(), parts["held_out"].held(), ledger, readings)

    def _sampled(self, config: DataConfig, renderer: Renderer, objective: Renders) -> Prepared:
        """The first rows of a stream, which are looked at before training; and the rows that are held out."""
        ledger, readings = Ledger(), list[Reading]()
        held: Sequence[Example] = []
        if isinstance(config.held_out, list):
            own = config.model_copy(update={"train": config.held_out, "held_out": 0.0, "streaming": False})
            other = self.prepare(own, renderer, objective)
            held, readings = other.train, other.readings
        stream = Stream(config, seed=0, held_out={identity for identity, _ in identities_of(held)})
        rendering = Rendering(stream, renderer, objective)
        train = rendering.rows(SAMPLE, again=False)
        held = held or [one for raw in stream.apart if isinstance(one := rendering.example(raw), Example)]
        sides: dict[Side, Sequence[Example]] = {"train": train, "held_out": held}
        for side, rows in sides.items():
            for row in rows:
                ledger.read()
                at, count = row.origin, len(row.sequences)
                ledger.record(Entry(at.file, at.line, side, "kept", "", "", row.content_id, count, row.tokens))
        for entry in stream.dropped:
            ledger.read()
            ledger.record(entry)
        ledger.notes = [f"a stream: {ledger.rows_read} rows were looked at first; steps.jsonl names those of each step"]
        return Prepared(train, held, ledger, [*stream.readings, *readings])

    def read(
        self,
        sources: Sequence[SourceConfig],
        rows: ReadRows,
        ledger: Ledger,
        readings: list[Reading],
        *,
        side: Side = "train",
        cleaning: Cleaning | None = None,
    ) -> None:
        """Put the rows of some files there, in their layouts and cleaned; those that cannot be used into the ledger.

        No cleaner takes a row away that is measured on.
        """
        for source in map(resolved, sources):
            for found in files(source):
                before = ledger.rows_read
                rows.source(found.file, source.weight)
                outcomes = (cleaning or Cleaning(())).rows(found.rows, found.format, lenient=side == "held_out")
                while batch := list(islice(outcomes, BATCH)):  # others may write between batches
                    with rows.store.writing():
                        for outcome in batch:
                            _keep(outcome, found.format, rows, ledger, side)
                readings.append(found.reading(ledger.rows_read - before))


def _keep(outcome: Outcome, format: str, rows: ReadRows, ledger: Ledger, side: Side) -> None:
    """Put a row that was read where it goes."""
    ledger.read()
    origin, drop = outcome.row.origin, outcome.drop
    if outcome.content is not None:
        number = rows.store.add(format, outcome.value)
        mended, made_of = ", ".join(outcome.mended), outcome.content_id
        rows.add(number, origin.line, outcome.content.content_id, mended=mended, made_of=made_of)
    elif drop is not None:
        ledger.judge(origin, drop, side=side, content_id=outcome.content_id)


def _store(config: DataConfig, renderer: Renderer, objective: Renders) -> Store:
    """Where the rows are: with those of earlier runs, where there are many."""
    held = config.held_out if isinstance(config.held_out, list) else []
    files = [Path(file) for source in (*config.train, *held) for file in files_of(resolved(source))]
    size = sum(file.stat().st_size if file.is_file() else KEPT_BYTES for file in files)
    settings = (config.max_length, config.over_length)
    name = fingerprint(renderer, objective, settings) if config.cache and size >= KEPT_BYTES else None
    return Store() if name is None else kept(name)


def _apart(config: DataConfig, rows: ReadRows) -> NDArray[np.bool_]:
    """Which of the training rows are held out; none, where that are files of their own."""
    if isinstance(config.held_out, list):
        return np.zeros(len(rows), dtype=bool)
    together: Iterable[str] = (row.identity for row in rows)
    kinds = None
    if config.stratify or config.keep_together:
        contents = list(rows.contents())
        together = identities(contents, config.keep_together)
        kinds = strata(contents, [row.origin.file for row in rows], config.stratify) if config.stratify else None
    return held_out(together, share=config.held_out, seed=config.split_seed, strata=kinds)


def _augment(config: DataConfig, rows: ReadRows, apart: NDArray[np.bool_], held: ReadRows, ledger: Ledger) -> None:
    """Put new rows behind those that are trained on; as many as guards let pass, and no cleaner looks at them again."""
    parents = [row for row in rows if not apart[row.place] and _times(row, held_out=False)]
    held_back = [*(row for row in rows if apart[row.place]), *held]
    store = rows.store
    there, closed = ([said(store.content(row.id), str(row.origin)) for row in side] for side in (parents, held_back))
    augmenters, guards = cast(list[AugmenterSettings], config.augment), cast(list[GuardSettings], config.guard)
    made = list(augmented(there, augmenters, guards, apart=closed))
    with store.writing():
        for candidate, drop in made:
            if drop is not None or not reads_as_itself(candidate.content):
                ledger.refuse(drop.rule if drop else "unreadable")
                continue
            row = store.add(layout_of(candidate.content), value_of(candidate.content))
            parent, *others = (parents[place] for place in (candidate.parent, *candidate.others))
            made_of = " ".join(one.identity for one in (parent, *others))
            rows.make(row, candidate.content.content_id, parent, method=candidate.method, made_of=made_of)


def _refusal(rendered: RenderedRow | None, config: DataConfig) -> str:
    """Why a row that was made cannot be used; nobody wrote it, so that it never stops a run."""
    assert rendered is not None
    longest = max(map(len, rendered.sequences), default=0)
    return rendered.reason if not longest else "over-length" if longest > config.max_length else ""


def _times(row: ReadRow, *, held_out: bool) -> int:
    """How often a row is seen: of the held-out ones each once, and none that was made for nothing."""
    return 1 if held_out else max(times(row.identity, row.weight), 1 if row.method else 0)


def _account(row: ReadRow, side: Side, rendered: RenderedRow | None, ledger: Ledger) -> int:
    """Write down what became of a row that was read; returns its number in the ledger."""
    if rendered is None:
        drop = Drop("weight", row.weight, 1.0, f"the weight of its source, {row.weight:g}, leaves it out")
        return ledger.judge(row.origin, drop, side=side, content_id=row.identity)
    file, line = row.origin.file, row.origin.line
    entry = Entry(file, line, side, rendered.outcome, rendered.reason, rendered.detail, row.identity)
    if rendered.sequences:
        tokens = sum(map(len, rendered.sequences))
        entry = replace(entry, sequences=len(rendered.sequences), tokens=tokens)
        entry = replace(entry, mended=row.mended, method=row.method, made_of=row.made_of)
    if row.method:
        ledger.make()
    return ledger.record(entry)
