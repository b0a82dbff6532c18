"""Loss on rows that are not trained on: per row, so that two models can be compared row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from luthier.data.pack import Batch, Example, Layout, lay_out, plan
from luthier.distributed.strategy import Strategy
from luthier.models.output import Forward
from luthier.objectives.base import Objective


@dataclass(frozen=True, slots=True)
class RowLoss:
    """The negative log-likelihood of a sequence's supervised tokens, in nats, and how many they are."""

    total: float
    tokens: int


def sequence_losses(
    model: nn.Module, forward: Forward, examples: Sequence[Example], layout: Layout
) -> list[list[RowLoss]]:
    """The loss of each sequence of each example, in one forward pass. The model is put into evaluation mode."""
    batch = lay_out(examples, layout).to(next(model.parameters()).device)
    model.eval()
    with torch.no_grad():
        logprobs = forward(model, batch).logprobs(batch.targets).double().cpu()
    owner, result = batch.targets.segment.cpu(), list[list[RowLoss]]([] for _ in examples)
    for number, segment in enumerate(batch.segments):
        mine = logprobs[owner == number]
        result[segment.example].append(RowLoss(-float(mine.sum()), len(mine)))
    return result


def objective_loss(
    model: nn.Module,
    forward: Forward,
    objective: Objective,
    examples: Sequence[Example],
    layout: Layout,
    *,
    strategy: Strategy,
) -> dict[str, float]:
    """`loss` and the objective's metrics, each per unit over all examples. The model is put into evaluation mode."""

    def noticed(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return objective.statistics(forward(model, batch), batch)

    def measured(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        batch = replace(batch, step=noted)
        total, extra = objective.loss(forward(model, batch), batch)
        return {"": torch.tensor(float(objective.units(batch))), "loss": total, **extra}

    def batches(examples: Sequence[Example]) -> Iterator[Batch]:
        groups = plan([layout.size(example) for example in examples], layout, ranks=strategy.shares)
        return (lay_out([examples[i] for i in group], layout) for group in groups[strategy.share])

    model.eval()
    beside = [example.companion for example in examples if example.companion]
    noted = strategy.measure(model, batches(beside), noticed) if beside else {}
    sums = strategy.measure(model, batches(examples), measured)
    units = sums.pop("")
    return {name: value / max(units, 1) for name, value in sums.items()}
