"""Data parallel: every rank holds the model and a share of each step's rows (torch DistributedDataParallel)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from luthier.distributed.mesh import Axes
from luthier.distributed.strategy import Around, Found, LossOf, Movable, clip_gradients
from luthier.distributed.together import Parallel, Together

if TYPE_CHECKING:
    from torch import nn


class Ddp(Parallel):
    """One process per device, each with the whole model; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["ddp"] = "ddp"

    def open(self) -> DdpStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun.
        """
        return DdpStrategy(self.join(Axes(data=0)))


class DdpStrategy(Together):
    """Gradients are reduced once a step, in the backward pass of the last micro-batch."""

    def prepare(self, model: nn.Module, around: Around) -> nn.Module:
        """Move the model and wrap it; weights of rank 0 are sent to the others."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model.to(self.device), gradient_as_bucket_view=True)  # else they are there twice

    def go_through(self, model: Any, batch: Movable, loss_of: LossOf, *, last: bool) -> Found:
        """Only the last micro-batch talks."""
        with nullcontext() if last else model.no_sync():
            return super().go_through(model, batch, loss_of, last=last)

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Gradients are equal on all ranks, so each clips alone."""
        return clip_gradients(model, max_norm)
