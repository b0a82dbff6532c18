"""Answers as training rows: the model answers each step's prompts, rewards judge, and the loop learns from that.

To the loop this is a loader like any other. What is drawn depends on seed and place in the data only, so a resumed run
draws the same answers, and so do any number of processes; where answers are used for several updates, a checkpoint
between them holds the answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from luthier.data.loader import Loader, Step
from luthier.data.pack import Batch, Example
from luthier.data.render import Tokens
from luthier.distributed.strategy import Strategy
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from luthier.models.reference import with_columns
from luthier.objectives.online import Online, asked
from luthier.rollout.rewards import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ask = Callable[[Batch], Mapping[str, Tensor]]
"""Columns of a batch, from a model that is not trained just now."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Answers to the prompts of a step: their ids, and what each is worth `[P, G]`."""

    answers: list[list[list[int]]]
    rewards: NDArray[np.float64]


class Rollouts:
    """Steps of answers to the prompts of a loader."""

    def __init__(
        self,
        loader: Loader,
        engine: HfEngine,
        objective: Online,
        rewards: Sequence[tuple[float, Score]],
        strategy: Strategy,
        *,
        ask: Ask | None,
    ) -> None:
        self.loader, self.engine, self.objective, self.rewards = loader, engine, objective, rewards
        self.strategy, self.ask = strategy, ask
        self.examples = loader.examples
        self._kept: list[Example] = []
        """Answers that will be used again."""
        self._laid: list[Example] = []
        """Answers of the step that is being made."""
        self._update = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that ask every prompt once."""
        return self.loader.steps_per_epoch * self.objective.updates

    @property
    def tokens_per_step(self) -> float:
        """At most: every answer as long as it may be."""
        answers = self.loader.batch_size * self.objective.samples * self.objective.max_new_tokens
        return self.loader.tokens_per_step * self.objective.samples + answers

    def steps(self, *, epoch: int = 0, position: int = 0) -> Iterator[Step]:
        """Steps without end: `updates` of them from each set of answers."""
        for chosen, before, after in self.loader.picks(epoch=epoch, position=position):
            metrics: dict[str, float] = {}
            if not self._kept:
                started = time.perf_counter()
                drawn = self.draw(chosen, self.objective.samples, self.objective.temperature, place=before)
                self._kept, self._update = self._rows(chosen, drawn), 0
                metrics = self._told(drawn) | {"rollout_seconds": time.perf_counter() - started}
            while self._update < self.objective.updates:
                self._update += 1
                last = self._update == self.objective.updates
                self._laid = rows = self._kept
                if last:
                    self._kept = []
                yield Step(
                    self.loader.micro_batches(rows), tuple(chosen), *(after if last else before), metrics=metrics
                )
                metrics = {}

    def measure(self, examples: Sequence[Example]) -> dict[str, float]:
        """The mean reward of likeliest answers; `loss` is its negative, so that the best is the lowest."""
        drawn = self.draw(examples, 1, 0.0, place=(0, 0))
        reward = float(drawn.rewards.mean())
        return {"loss": -reward, "reward": reward}

    # ---- answers -----------------------------------------------------------------------------------------------

    def draw(self, examples: Sequence[Example], samples: int, temperature: float, *, place: tuple[int, int]) -> Drawn:
        """Answers to prompts and their rewards; every rank draws its share and gets all."""
        mine = [i for i in range(len(examples)) if i % self.strategy.shares == self.strategy.share]
        prompts = [examples[i].sequences[0].ids.tolist() for i in mine for _ in range(samples)]
        seeds = np.random.SeedSequence([self.loader.seed, *place]).generate_state(len(examples) * samples)
        own = [int(seeds[i * samples + sample]) for i in mine for sample in range(samples)]
        answers: list[list[int]] = [[]] * len(prompts)
        for i, ids in self.engine.complete(prompts, Sampling(self.objective.max_new_tokens, temperature), seeds=own):
            answers[i] = ids
        tasks = [task for i in mine for _ in range(samples) if (task := asked(examples[i].content))]
        texts = [self.engine.text(ids) for ids in answers]
        worth = np.zeros(len(texts))
        for weight, score in self.rewards:
            worth += weight * np.asarray(score(tasks, texts)) if texts else 0.0
        return self._shared(mine, answers, worth, len(examples), samples)

    def _shared(
        self, mine: list[int], answers: list[list[int]], worth: NDArray[np.float64], count: int, samples: int
    ) -> Drawn:
        """The answers of all ranks, through one table of fixed size."""
        width = self.objective.max_new_tokens
        table = torch.zeros(count * samples, width + 1, dtype=torch.int64)
        rewards = np.zeros(count * samples)
        for at, (ids, value) in enumerate(zip(answers, worth, strict=True)):
            row = mine[at // samples] * samples + at % samples
            table[row, 0] = len(ids)
            table[row, 1 : 1 + len(ids)] = torch.tensor(ids)
            rewards[row] = value
        table = torch.stack(self.strategy.gather(table)).sum(0)
        rewards = np.asarray(self.strategy.sum(rewards.tolist()))
        found = [row[1 : 1 + int(row[0])].tolist() for row in table]
        groups = [found[i : i + samples] for i in range(0, len(found), samples)]
        return Drawn(groups, rewards.reshape(count, samples))

    def _told(self, drawn: Drawn) -> dict[str, float]:
        """What a step's answers were like."""
        lengths = [len(ids) for group in drawn.answers for ids in group]
        stopped = [bool(ids) and ids[-1] in self.engine.renderer.stop_ids for group in drawn.answers for ids in group]
        return {
            "reward": float(drawn.rewards.mean()),
            "reward_std": float(drawn.rewards.std(axis=1).mean()),
            "answer_tokens": float(np.mean(lengths)),
            "answers_cut": 1 - float(np.mean(stopped)),
        }

    # ---- rows --------------------------------------------------------------------------------------------------

    def _rows(self, chosen: Sequence[Example], drawn: Drawn) -> list[Example]:
        """Answers behind their prompts, with every column the objective learns from."""
        worth = self.objective.advantages(torch.from_numpy(drawn.rewards)).numpy()
        rows: list[Example] = []
        for example, answers, gains, rewards in zip(chosen, drawn.answers, worth, drawn.rewards, strict=True):
            prompt = example.sequences[0].ids
            sequences = [_answered(prompt, ids) for ids in answers]
            for part in self._parts(sequences):
                rows.append(
                    replace(
                        example,
                        sequences=tuple(sequences[i] for i in part),
                        columns={
                            name: np.concatenate([np.full(len(answers[i]), numbers[i], dtype=np.float32) for i in part])
                            for name, numbers in (("advantage", gains), ("reward", rewards))
                        },
                    )
                )
        if self.ask is not None:
            self.engine.model.eval()
            rows = with_columns(rows, self.loader.layout, self.strategy, self.ask)
        return [self.objective.judged(row) for row in rows]

    def _parts(self, sequences: Sequence[Tokens]) -> Iterator[list[int]]:
        """Answers to one prompt, as many together as one forward pass may hold."""
        part: list[int] = []
        size = 0
        for i, sequence in enumerate(sequences):
            if part and size + len(sequence) > self.loader.layout.tokens:
                yield part
                part, size = [], 0
            part.append(i)
            size += len(sequence)
        yield part

    def smaller(self, step: Step) -> Step | None:
        """Fewer answers to one prompt in a pass, and fewer prompts, for these answers and all later ones."""
        rows = self._laid
        parts = [part for row in rows for part in _halves(row)]
        if len(parts) == len(rows) and not self.loader.halve(rows):
            return None
        if len(parts) > len(rows):
            largest = max(self.loader.layout.size(row) for row in rows)
            self.loader.layout = replace(self.loader.layout, tokens=max(largest // 2, 1))
        self._laid = parts
        self._kept = parts if self._kept else []
        return replace(step, micro_batches=self.loader.micro_batches(parts))

    # ---- between updates -----------------------------------------------------------------------------------------

    def progress(self, step: Step) -> float:
        """Epochs of the prompts that are done with it."""
        return self.loader.progress(step)

    def memory(self) -> dict[str, Tensor]:
        """Answers that will be used again."""
        if not self._kept:
            return {}
        sequences = [(row, tokens) for row, example in enumerate(self._kept) for tokens in example.sequences]
        places = {example.origin: i for i, example in enumerate(self.examples)}
        found = {
            "update": torch.tensor(self._update),
            "example": torch.tensor([places[example.origin] for example in self._kept]),
            "row": torch.tensor([row for row, _ in sequences]),
            "length": torch.tensor([len(tokens) for _, tokens in sequences]),
            "ids": torch.from_numpy(np.concatenate([tokens.ids for _, tokens in sequences])),
            "weights": torch.from_numpy(np.concatenate([tokens.weights for _, tokens in sequences])),
        }
        columns = {
            f"column.{name}": torch.from_numpy(np.concatenate([example.columns[name] for example in self._kept]))
            for name in self._kept[0].columns
        }
        return found | columns

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put the answers back."""
        if not memory:
            return
        self._update = int(memory["update"])
        cuts = np.cumsum(memory["length"].numpy())[:-1]
        ids, weights = (np.split(memory[name].numpy(), cuts) for name in ("ids", "weights"))
        owners = memory["row"].tolist()
        rows = []
        for row, index in enumerate(memory["example"].tolist()):
            tokens = (Tokens(i, w) for i, w, owner in zip(ids, weights, owners, strict=True) if owner == row)
            rows.append(replace(self.examples[index], sequences=tuple(tokens)))
        ends = np.cumsum([row.supervised for row in rows])[:-1]
        for name, column in memory.items():
            if name.startswith("column."):
                pieces = np.split(column.numpy(), ends)
                key = name.removeprefix("column.")
                rows = [replace(r, columns={**r.columns, key: piece}) for r, piece in zip(rows, pieces, strict=True)]
        self._kept = rows


def _halves(row: Example) -> list[Example]:
    """Answers to one prompt as two rows, where they are several."""
    count = len(row.sequences) // 2
    if not count:
        return [row]
    cut = sum(tokens.supervised for tokens in row.sequences[:count])
    return [
        replace(row, sequences=row.sequences[part], columns={n: c[numbers] for n, c in row.columns.items()})
        for part, numbers in ((slice(count), slice(cut)), (slice(count, None), slice(cut, None)))
    ]


def _answered(prompt: NDArray[np.int32], answer: Sequence[int]) -> Tokens:
    """A prompt and an answer to it, whose every token is learnt."""
    weights = np.concatenate([np.zeros(len(prompt), dtype=np.float32), np.ones(len(answer), dtype=np.float32)])
    return Tokens(np.concatenate([prompt, np.asarray(answer, dtype=np.int32)]), weights)
