"""Models that are not trained: a reference as a column of the rows, so that it needs no memory; and a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from luthier.data.pack import Batch, Example, Layout, lay_out, plan
from luthier.distributed.strategy import Strategy
from luthier.models.output import Forward, Output
from luthier.system.hardware import Precision


def with_reference(
    model: nn.Module, forward: Forward, examples: Sequence[Example], layout: Layout, strategy: Strategy
) -> list[Example]:
    """The examples with the column `reference`: what the model says of each supervised token before it is trained."""
    model.eval()
    return with_columns(
        examples, layout, strategy, lambda batch: {"reference": forward(model, batch).logprobs(batch.targets)}
    )


def with_columns(
    examples: Sequence[Example],
    layout: Layout,
    strategy: Strategy,
    ask: Callable[[Batch], Mapping[str, Tensor]],
) -> list[Example]:
    """The examples with further numbers of each supervised token, asked of batches without gradients.

    The ranks share the work.
    """
    ends = np.cumsum([example.supervised for example in examples])
    found: dict[str, np.ndarray] = {}
    for group in plan([layout.size(example) for example in examples], layout, ranks=strategy.shares)[strategy.share]:
        with torch.no_grad():  # a rank with nothing to do asks of a blank, and so learns the names
            said = ask(lay_out([examples[i] for i in group], layout).to(strategy.device))
        cuts = np.cumsum([examples[i].supervised for i in group])[:-1]
        for name, column in said.items():
            whole = found.setdefault(name, np.zeros(int(ends[-1])))
            for i, piece in zip(group, np.split(column.double().cpu().numpy(), cuts), strict=False):
                whole[ends[i] - len(piece) : ends[i]] = piece
    rows = list(examples)
    for name, whole in found.items():
        pieces = np.split(np.asarray(strategy.sum(whole.tolist()), dtype=np.float32), ends[:-1])
        rows = [replace(e, columns={**e.columns, name: piece}) for e, piece in zip(rows, pieces, strict=True)]
    return rows


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
