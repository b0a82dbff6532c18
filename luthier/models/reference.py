"""Models that are not trained: a reference as a column of the rows, so that it needs no memory; and a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from luthier.data.pack import Batch, Example, Layout, lay_out, plan
from luthier.distributed.strategy import Strategy
from luthier.models.output import Forward, Output
from luthier.system.hardware import Precision

COLUMN = "reference"


def with_reference(
    model: nn.Module, forward: Forward, examples: Sequence[Example], layout: Layout, strategy: Strategy
) -> list[Example]:
    """The examples with the log-probability `[N]` of each supervised token; the ranks share the work."""
    ends = np.cumsum([example.supervised for example in examples])
    found = np.zeros(int(ends[-1]) if len(examples) else 0)
    model.eval()
    for group in plan([layout.size(example) for example in examples], layout, ranks=strategy.ranks)[strategy.rank]:
        if not group:  # another rank has one more
            continue
        batch = lay_out([examples[i] for i in group], layout).to(strategy.device)
        with torch.no_grad():
            logprobs = forward(model, batch).logprobs(batch.targets).double().cpu().numpy()
        pieces = np.split(logprobs, np.cumsum([examples[i].supervised for i in group])[:-1])
        for i, piece in zip(group, pieces, strict=True):
            found[ends[i] - len(piece) : ends[i]] = piece
    column = np.asarray(strategy.sum(found.tolist()), dtype=np.float32)
    rows = zip(examples, np.split(column, ends[:-1]), strict=True)
    return [replace(example, columns={**example.columns, COLUMN: piece}) for example, piece in rows]


def frozen(model: nn.Module, precision: Precision) -> Callable[[Batch], Output]:
    """What a model answers, without gradients; its weights are frozen and it is put into evaluation mode."""
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.eval()
    forward = Forward(model, precision)

    def answer(batch: Batch) -> Output:
        with torch.no_grad():
            return forward(model, batch)

    return answer
