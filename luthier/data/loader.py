"""The order of rows over a run, resumable at any step: a function of seed, epoch and position, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier.data.pack import Batch, Example, Layout, lay_out, plan
from luthier.data.store import tokens_of

Place = tuple[int, int]
"""Epoch, and rows of it that are done."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: this rank's micro-batches, all its rows, and where the data stands afterwards.

    `companions` are the micro-batches of the rows' companions, where an objective has them; `metrics` is what making
    the step had to say, `dropped` which rows were passed over, and why.
    """

    micro_batches: tuple[Batch, ...]
    examples: tuple[Example, ...]
    epoch: int
    position: int
    companions: tuple[Batch, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


class LoaderLike(Protocol):
    """Where the loop takes its steps from."""

    examples: Sequence[Example]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every row once."""

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a full step."""

    def steps(self, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
        """Steps without end, from a place in the data on."""

    def progress(self, step: Step) -> float:
        """Epochs that are done with it."""

    def smaller(self, step: Step) -> Step | None:
        """The same step in micro-batches of half the size, as all steps from here on; None where there are none."""

    def memory(self) -> dict[str, Tensor]:
        """What a checkpoint must hold for the next steps to be the same; empty where place and seed say it all."""

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put back what `memory` returned."""


class Loader:
    """Deals the examples of a run in steps of `batch_size` rows; the last step of an epoch may be smaller."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        seed: int,
        layout: Layout,
        rank: int = 0,
        ranks: int = 1,
        multiple: int = 1,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.layout = examples, batch_size, seed, layout
        self.rank, self.ranks, self.multiple = rank, ranks, multiple

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every row once."""
        return -(-len(self.examples) // self.batch_size)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a full step."""
        return self.batch_size * sum(tokens_of(self.examples)) / max(len(self.examples), 1)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of one epoch."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        return generator.permutation(len(self.examples))

    def picks(self, *, epoch: int = 0, position: int = 0) -> Iterator[tuple[list[Example], Place, Place]]:
        """The rows of each step without end, with the place before and after them."""
        while True:
            order = self.order(epoch)
            while position < len(order):
                before = (epoch, position)
                chosen = [self.examples[i] for i in order[position : position + self.batch_size]]
                position += len(chosen)
                yield chosen, before, ((epoch + 1, 0) if position >= len(order) else (epoch, position))
            epoch, position = epoch + 1, 0

    def steps(self, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
        """Steps without end, from a place in the data on."""
        for chosen, _, after in self.picks(epoch=epoch, position=position):
            yield self.step(chosen, after)

    def progress(self, step: Step) -> float:
        """Epochs that are done with it."""
        return step.epoch + step.position / len(self.examples)

    def step(self, rows: Sequence[Example], after: Place = (0, 0), *, dropped: tuple[str, ...] = ()) -> Step:
        """One step of these rows."""
        beside = [example.companion for example in rows if example.companion]
        companions = self.micro_batches(beside) if beside else ()
        return Step(self.micro_batches(rows), tuple(rows), *after, companions=companions, dropped=dropped)

    def smaller(self, step: Step) -> Step | None:
        """As long as a micro-batch holds more than one row."""
        if not self.halve(step.examples):
            return None
        smaller = self.step(step.examples, (step.epoch, step.position))
        return replace(smaller, metrics=step.metrics, dropped=step.dropped)

    def halve(self, rows: Sequence[Example]) -> bool:
        """Halve the limits of a micro-batch, below what these rows reach; false where each has one of its own."""
        groups = plan([self.layout.size(row) for row in rows], self.layout, ranks=1)[0]
        if max(map(len, groups)) < 2:
            return False
        largest = max(lay_out([rows[i] for i in group], self.layout).ids.numel() for group in groups)
        most = max(map(len, groups))
        fewer = None if self.layout.rows is None else max(min(self.layout.rows, most) // 2, 1)
        self.layout = replace(self.layout, tokens=max(largest // 2, 1), rows=fewer)
        return True

    def memory(self) -> dict[str, Tensor]:
        """Nothing: the order is a function of the place."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def micro_batches(self, examples: Sequence[Example]) -> tuple[Batch, ...]:
        """This rank's share of some rows."""
        sizes = [self.layout.size(example) for example in examples]
        share = plan(sizes, self.layout, ranks=self.ranks, multiple=self.multiple)[self.rank]
        return tuple(lay_out([examples[i] for i in group], self.layout) for group in share)
