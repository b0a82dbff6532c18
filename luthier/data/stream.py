"""Rows that are read as training goes: sources of any size, a buffer in which they are shuffled, a place to go on from.

Sources take turns, a row each. What a checkpoint holds is how many rows of each source were read, the rows in the
buffer, and the state of the random numbers, so that a run goes on with exactly the rows that it would have had.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from luthier.config import DataConfig, RunConfig, SourceConfig
from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.pipeline import Cleaning, Outcome
from luthier.data.conversation import Origin, Row
from luthier.data.formats import base as formats
from luthier.data.ledger import Entry
from luthier.data.loader import Loader, Step
from luthier.data.making import Renders, made
from luthier.data.pack import Example
from luthier.data.recognise import Reading, files
from luthier.data.render import Renderer
from luthier.data.sources import STDIN, resolved
from luthier.data.split import place_for, times
from luthier.errors import ConfigError, DataError, Problem

SAMPLE = 1000
"""Rows that are looked at before training, at most."""


class Raw(NamedTuple):
    """A row as it waits in the buffer."""

    format: str
    value: Any
    file: str
    line: int


class Stream:
    """The rows of sources in a shuffled order, epoch after epoch; none that says what one of `held_out` says."""

    def __init__(self, config: DataConfig, *, seed: int, held_out: Collection[str] = ()) -> None:
        self.config, self.sources = config, [resolved(source) for source in config.train]
        self.cleaning = Cleaning(cast(list[CleanerSettings], config.clean))
        self.held_out, self.readings = held_out, list[Reading]()
        self.generator = np.random.Generator(np.random.PCG64([seed, 1]))
        self.epoch, self.turn, self.drawn = 0, 0, 0
        self.read, self.buffer, self.dropped = [0] * len(self.sources), list[Raw](), list[Entry]()
        self.apart: list[Raw] = []
        """Rows that are held out, of those read so far; only the first ones are kept."""
        self._open: list[Iterator[tuple[str, Outcome]] | None] = []

    def draw(self) -> Raw:
        """The next row.

        Raises:
            DataError: a source cannot be read, or none has a row to train on.
        """
        if self.ends():
            self.epoch, self.turn, self.drawn = self.epoch + 1, 0, 0
            self.read, self._open = [0] * len(self.sources), []
            self._fill()
        if not self.buffer:
            first = next(map(told, self.dropped), "all rows are held out")
            raise DataError(f"no row of the stream is left to train on; first: {first}")
        self.drawn += 1
        last, at = self.buffer.pop(), int(self.generator.integers(len(self.buffer) + 1))
        if at == len(self.buffer):
            return last
        chosen, self.buffer[at] = self.buffer[at], last
        return chosen

    def ends(self) -> bool:
        """Whether the next row is the first of another epoch."""
        self._fill()
        return not self.buffer and self.drawn > 0

    def _fill(self) -> None:
        while len(self.buffer) < self.config.shuffle_buffer and (found := self._next()) is not None:
            source, name, outcome = found
            origin, content = outcome.row.origin, outcome.content
            if content is None:
                assert outcome.drop is not None
                self.dropped.append(dropped(origin, outcome.drop.rule, outcome.drop.detail))
                continue
            raw, identity = Raw(name, outcome.value, origin.file, origin.line), content.content_id
            share = self.config.held_out
            if isinstance(share, float) and place_for(self.config.split_seed, identity) < share:
                self.apart += [raw] if len(self.apart) < SAMPLE else []
                continue
            if identity in self.held_out:
                self.dropped.append(dropped(origin, "held-out", "says what a held-out row says"))
                continue
            self.buffer += [raw] * times(identity, source.weight)

    def _next(self) -> tuple[SourceConfig, str, Outcome] | None:
        """A row of the source whose turn it is; None at the end of all."""
        if not self._open:
            if self.epoch and any(source.path == STDIN for source in self.sources):
                raise DataError("standard input was read to its end; a smaller train.max_steps asks for no more")
            self._open = [self._outcomes(source, skip) for source, skip in zip(self.sources, self.read, strict=True)]
        for _ in self.sources:
            at, self.turn = self.turn, (self.turn + 1) % len(self.sources)
            rows = self._open[at]
            found = None if rows is None else next(rows, None)
            if found is not None:
                self.read[at] += 1
                return self.sources[at], *found
            self._open[at] = None
        return None

    def _outcomes(self, source: SourceConfig, skip: int) -> Iterator[tuple[str, Outcome]]:
        for found in files(source):
            if not self.epoch:
                self.readings.append(found.reading())
            skip -= sum(1 for _ in islice(found.rows, skip))
            for outcome in self.cleaning.rows(found.rows, found.format):
                yield found.format, outcome

    # ---- where it stands ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next rows depend on, as a tensor of bytes `[N]`."""
        stands = {
            "epoch": self.epoch, "turn": self.turn, "drawn": self.drawn, "read": self.read, "buffer": self.buffer,
            "random": self.generator.bit_generator.state,
        }  # fmt: skip
        packed = zlib.compress(json.dumps(stands).encode(), 1)
        return {"stream": torch.frombuffer(bytearray(packed), dtype=torch.uint8)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there.

        Raises:
            DataError: it is of other sources.
        """
        stands = json.loads(zlib.decompress(state["stream"].numpy().tobytes()))
        if len(stands["read"]) != len(self.sources):
            raise DataError(
                f"data.train: {len(self.sources)} sources, and the checkpoint's stream has {len(stands['read'])}"
            )
        self.epoch, self.turn, self.drawn, self.read = stands["epoch"], stands["turn"], stands["drawn"], stands["read"]
        self.buffer, self._open, self.dropped = [Raw(*one) for one in stands["buffer"]], [], []
        self.generator.bit_generator.state = stands["random"]


class Rendering:
    """A stream whose rows are rendered as they are drawn."""

    def __init__(self, stream: Stream, renderer: Renderer, objective: Renders) -> None:
        self.stream, self.renderer, self.objective = stream, renderer, objective

    def example(self, raw: Raw) -> Example | Entry:
        """A row, rendered; or why it cannot be used."""
        origin = Origin(raw.file, raw.line)
        content = formats.read(raw.format, Row(origin, raw.value))
        found = made(content, self.renderer, self.objective, self.stream.config)
        if not found.sequences:
            return dropped(origin, found.reason, found.detail)
        return Example(origin, content.content_id, found.sequences, content, row=f"{content.content_id} {origin}")

    def rows(self, count: int, *, again: bool = True) -> list[Example]:
        """The next rows that can be used; the others are among the stream's `dropped`. Fewer, where it ends before.

        Raises:
            DataError: none of a whole epoch can be used; or as drawing does.
        """
        result, epoch = list[Example](), self.stream.epoch
        while len(result) < count and (again or not self.stream.ends()):
            found = self.example(self.stream.draw())
            if not result and self.stream.epoch > epoch + 1:
                break
            if isinstance(found, Example):
                result.append(found)
            else:
                self.stream.dropped.append(found)
        if not result:
            raise DataError(f"no row of the stream can be learnt from; first: {told(self.stream.dropped[0])}")
        return result


def dropped(origin: Origin, reason: str, detail: str) -> Entry:
    """A row that is passed over."""
    return Entry(origin.file, origin.line, "train", "dropped", reason, detail)


def told(entry: Entry) -> str:
    """A row that was passed over, in a line."""
    return f"{entry.file}:{entry.line}: {entry.detail} ({entry.reason})"


class StreamLoader:
    """Steps of a stream; `rows` are the first ones, by which its steps are laid out."""

    def __init__(self, rows: Loader, rendering: Rendering) -> None:
        self.rows, self.rendering, self.examples = rows, rendering, rows.examples

    @property
    def steps_per_epoch(self) -> int:
        """Of the first rows; a run on a stream says everything in steps."""
        return self.rows.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a step, of the first rows."""
        return self.rows.tokens_per_step

    def progress(self, step: Step) -> float:
        """Epochs that are done."""
        return float(step.epoch)

    def steps(self, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
        """Steps without end from where the stream stands."""
        stream = self.rendering.stream
        while True:
            rows = self.rendering.rows(self.rows.batch_size)
            step = self.rows.step(rows, (stream.epoch, stream.drawn), dropped=tuple(map(told, stream.dropped)))
            stream.dropped.clear()
            yield step

    def smaller(self, step: Step) -> Step | None:
        """As long as a micro-batch holds more than one row."""
        return self.rows.smaller(step)

    def memory(self) -> dict[str, Tensor]:
        """Where the stream stands, and the rows in its buffer."""
        return self.rendering.stream.state()

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        if memory:
            self.rendering.stream.restore(memory)


def require_stream(config: RunConfig, objective: Any) -> None:
    """Refuse what cannot be done with rows that are not there before training.

    Raises:
        ConfigError: each setting that does not go with a stream, and what to write.
    """
    data, train = config.data, config.train
    never_ends = "a stream has no known end; say it in steps, e.g. 500"
    refusing = "rows are checked as they come; drop"
    wrong = [
        ("train.max_steps", train.max_steps is None, never_ends),
        *((f"train.{key}", every is not None and every.unit == "epochs", never_ends)
          for key, every in (("evaluate_every", train.evaluate_every), ("save_every", train.save_every))),
        ("data.bad_rows", data.bad_rows == "error", refusing),
        ("data.over_length", data.over_length == "error", f"{refusing}, truncate or split"),
        ("data.held_out", isinstance(data.held_out, int) and data.held_out > 0, "a share, 0, or files of their own"),
        ("data.stratify", data.stratify is not None, "needs all rows before training"),
        ("data.keep_together", bool(data.keep_together), "needs all rows before training"),
        ("data.augment", bool(data.augment), "needs all rows before training; luthier data augment makes a file"),
        ("data.clean", any(cast(CleanerSettings, one).remembers for one in data.clean),
         "remembers rows, which a stream cannot after a stop; luthier data clean makes a file"),
        ("objective", objective.online or objective.needs.reference, f"{objective.type} asks about all rows first"),
    ]  # fmt: skip
    problems = [Problem(path, f"{said} (data.streaming)") for path, there, said in wrong if there]
    if problems:
        raise ConfigError(problems)
