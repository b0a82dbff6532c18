"""Loss on rows that are not trained on: per row, so that two models can be compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from luthier.data.pack import Batch, Example, Layout, lay_out, plan
from luthier.models.output import Forward
from luthier.objectives.base import Objective


@dataclass(frozen=True, slots=True)
class RowLoss:
    """The negative log-likelihood of one row's supervised tokens, in nats, and how many they are."""

    total: float
    tokens: int


def row_losses(
    model: nn.Module,
    forward: Forward,
    examples: Sequence[Example],
    layout: Layout,
    *,
    on_rows: Callable[[int], object] = lambda count: None,
) -> list[RowLoss]:
    """The loss of each example, in order. The model is put into evaluation mode."""
    losses = [RowLoss(0.0, 0)] * len(examples)
    device = next(model.parameters()).device
    model.eval()
    for group in plan([layout.size(example) for example in examples], layout, ranks=1)[0]:
        batch = lay_out([examples[i] for i in group], layout).to(device)
        with torch.no_grad():
            logprobs = forward(model, batch).logprobs(batch.targets).double().cpu()
        owner = torch.tensor([segment.example for segment in batch.segments])[batch.targets.segment.cpu()]
        for place, i in enumerate(group):
            mine = owner == place
            losses[i] = RowLoss(-float(logprobs[mine].sum()), int(mine.sum()))
        on_rows(len(group))
    return losses


def objective_loss(
    model: nn.Module, forward: Forward, objective: Objective, examples: Sequence[Example], layout: Layout
) -> dict[str, float]:
    """`loss` and the objective's metrics, each per unit over all examples. The model is put into evaluation mode."""
    units = 0

    def measured(batch: Batch) -> dict[str, Tensor]:
        nonlocal units
        units += objective.units(batch)
        batch = replace(batch, step=noted)
        total, extra = objective.loss(forward(model, batch), batch)
        return {"loss": total, **extra}

    beside = [example.companion for example in examples if example.companion]
    noted = _sums(model, beside, layout, lambda batch: objective.statistics(forward(model, batch), batch))
    sums = _sums(model, examples, layout, measured)
    return {name: value / max(units, 1) for name, value in sums.items()}


def _sums(
    model: nn.Module, examples: Sequence[Example], layout: Layout, of: Callable[[Batch], Mapping[str, Tensor]]
) -> dict[str, float]:
    """Numbers of batches, summed over all examples."""
    sums: dict[str, float] = {}
    device = next(model.parameters()).device
    model.eval()
    for group in plan([layout.size(example) for example in examples], layout, ranks=1)[0]:
        with torch.no_grad():
            found = of(lay_out([examples[i] for i in group], layout).to(device))
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Nats per supervised token over all rows."""
    return sum(loss.total for loss in losses) / max(sum(loss.tokens for loss in losses), 1)
