"""A strategy runs a step on one or many devices.

What it does: places and wraps the model, runs forward and backward over this rank's micro-batches, sums numbers over
ranks, clips and steps.
What it must not know: texts, rows, what a loss means. It is handed a function from (model, batch) to a loss that is
already divided by the units of the whole step, so gradients are **summed** over ranks, never averaged.
How to add one: one file here with a settings class whose `open` makes it, one line in `plugins.BUILT_IN["strategy"]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


LossOf = Callable[["nn.Module", Any], "Tensor"]
"""From the model and a micro-batch to its share of the step's loss."""


class Movable(Protocol):
    """A micro-batch, of which a strategy knows nothing but how to put it on a device."""

    def to(self, device: torch.device) -> Movable:
        """The same on a device."""


class Strategy(Protocol):
    """One rank's view of the devices."""

    rank: int
    ranks: int
    device: torch.device

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model to its device and wrap it; call once, after the adapter is attached."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks."""

    def forward_backward(self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf) -> float:
        """Gradients of the sum of all losses, added up over micro-batches and ranks; returns that sum."""

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Scale gradients so that their norm is at most `max_norm`; returns the norm before."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights and forget the gradients."""

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - one question, asked of every rank
        """Whether any rank says yes, so that all ranks stop at the same step."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A CPU tensor of every rank, in the order of ranks; all have one shape."""

    def barrier(self) -> None:
        """Wait for every rank."""

    def close(self) -> None:
        """Give the devices back."""


@runtime_checkable
class StrategySettings(Protocol):
    """The config part of a strategy."""

    type: str

    def open(self) -> Strategy:
        """Join the other ranks and choose this rank's device."""

    def ranks(self) -> int:
        """How many processes train together, without joining them."""


def pick_device(local_rank: int | None = None) -> torch.device:
    """This process's accelerator, or the CPU; without a number, that of its rank."""
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if local_rank is None else local_rank
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def clip_gradients(model: nn.Module, max_norm: float | None) -> float:
    """Clip by the norm of all gradients (computed by torch); returns the norm before."""
    import torch

    grads = [p for p in model.parameters() if p.grad is not None]
    return float(torch.nn.utils.clip_grad_norm_(grads, float("inf") if max_norm is None else max_norm))


def update(optimizer: Any) -> None:
    """One optimizer step; gradients are freed, not zeroed."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
