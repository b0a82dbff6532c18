"""The order of rows over a run, resumable at any step: a function of seed, epoch and position, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.data.pack import Batch, Example, Layout, lay_out, plan


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: this rank's micro-batches, all its rows, and where the data stands afterwards.

    `companions` are the micro-batches of the rows' companions, where an objective has them.
    """

    micro_batches: tuple[Batch, ...]
    examples: tuple[Example, ...]
    epoch: int
    position: int
    companions: tuple[Batch, ...] = ()


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
    ) -> None:
        self.examples, self.batch_size, self.seed, self.layout = examples, batch_size, seed, layout
        self.rank, self.ranks = rank, ranks

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every row once."""
        return -(-len(self.examples) // self.batch_size)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a full step."""
        return self.batch_size * sum(example.tokens for example in self.examples) / max(len(self.examples), 1)

    def order(self, epoch: int) -> list[int]:
        """The permutation of one epoch."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        return [int(i) for i in generator.permutation(len(self.examples))]

    def steps(self, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
        """Steps without end, from a place in the data on."""
        while True:
            order = self.order(epoch)
            while position < len(order):
                chosen = [self.examples[i] for i in order[position : position + self.batch_size]]
                position += len(chosen)
                done = position >= len(order)
                after = (epoch + 1, 0) if done else (epoch, position)
                beside = [example.companion for example in chosen if example.companion]
                yield Step(
                    self.micro_batches(chosen),
                    tuple(chosen),
                    *after,
                    companions=self.micro_batches(beside) if beside else (),
                )
            epoch, position = epoch + 1, 0

    def micro_batches(self, examples: Sequence[Example]) -> tuple[Batch, ...]:
        """This rank's share of some rows."""
        share = plan([self.layout.size(example) for example in examples], self.layout, ranks=self.ranks)[self.rank]
        return tuple(lay_out([examples[i] for i in group], self.layout) for group in share)
