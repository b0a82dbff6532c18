"""A strategy runs a step on one or many devices.

What it does: places and wraps the model, runs forward and backward over this rank's micro-batches, sums numbers over
ranks, clips and steps, and makes whole tensors of those it has cut.
What it must not know: texts, rows, what a loss means. It is handed a function from (model, batch) to a loss that is
already divided by the units of the whole step, so gradients are **summed** over ranks, never averaged.
How to add one: one file here with a settings class whose `open` makes it, one line in `plugins.BUILT_IN["strategy"]`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.errors import ProcessLost

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from luthier.config import RunConfig


Found = Mapping[str, "Tensor"]
"""Numbers by name that were made of a micro-batch."""
Of = Callable[["nn.Module", Any], Found]
LossOf = Callable[["nn.Module", Any], tuple["Tensor", Found]]
"""From the model and a micro-batch to its share of the step's loss, and what is reported besides."""


Around = Callable[["nn.Module", Any], AbstractContextManager[Any]]
"""From the model and a micro-batch to what is around each pass: its arithmetic, its noise."""


class Movable(Protocol):
    """A micro-batch, of which a strategy knows how to put it on a device, and what the model is called with."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """`input_ids` and `position_ids` `[B, T]`, and what attention needs besides."""

    def to(self, device: torch.device) -> Movable:
        """The same on a device."""


class Strategy(Protocol):
    """One rank's view of the devices.

    `share` of `shares` says which of the rows of a step are this rank's; ranks that hold parts of one copy of the
    model have the same. `cut` says that no rank holds the whole model, `answers` that a cut model is called as a whole
    one is, and says and learns the same. The micro-batches of a step come in multiples of `micro_batches`.
    """

    rank: int
    ranks: int
    share: int
    shares: int
    cut: bool
    answers: bool
    micro_batches: int
    device: torch.device

    def prepare(self, model: nn.Module, around: Around) -> nn.Module:
        """Move the model to its device and wrap it; call once, after the adapter is attached."""

    def adopt(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer as this strategy steps it; call once, behind `prepare`."""

    def asked(self, model: nn.Module) -> AbstractContextManager[None]:
        """Around passes of a model that `answers`, which are not made by the methods below."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all shares."""

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """Gradients of the sum of all losses, over micro-batches and shares; returns it, and the sums of the rest."""

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """Numbers of micro-batches without gradients, summed over them and all shares."""

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Scale gradients so that their norm is at most `max_norm`; returns the norm before."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights and forget the gradients."""

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - one question, asked of every rank
        """Whether any rank says yes, so that all ranks stop at the same step."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A CPU tensor of every rank, in the order of ranks; all have one shape."""

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Of a whole tensor what this rank holds of `like`, which may be cut."""

    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> AbstractContextManager[None]:
        """The model with whole parameters, frozen ones too or not; with `write`, what is put into them is kept."""

    def save(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """Write a safetensors file, or a folder without its suffix where ranks hold pieces; asked by all together."""

    def barrier(self) -> None:
        """Wait for every rank."""

    def lost(self, error: Exception) -> ProcessLost | None:
        """What an error says of the other ranks: that one hangs, or has ended; None: nothing."""

    def close(self) -> None:
        """Give the devices back."""


@runtime_checkable
class StrategySettings(Protocol):
    """The config part of a strategy."""

    type: str

    def require(self, config: RunConfig) -> None:
        """Raise UserError for a run that this strategy cannot do; nothing was loaded yet."""

    def open(self) -> Strategy:
        """Join the other ranks and choose this rank's device."""

    def ranks(self) -> int:
        """How many processes train together, without joining them."""


class Sums:
    """Numbers of micro-batches by name, added up."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    @classmethod
    def of(cls, model: nn.Module, batches: Iterable[Movable], of: Of, device: torch.device) -> Sums:
        """Of all batches, without gradients."""
        import torch

        sums = cls()
        for batch in batches:
            with torch.no_grad():
                sums.add(of(model, batch.to(device)))
        return sums

    def add(self, found: Found) -> None:
        """Of one micro-batch."""
        for name, value in found.items():
            self.found[name] = self.found.get(name, 0.0) + float(value.detach())

    def over(self, total: Callable[[Sequence[float]], list[float]]) -> dict[str, float]:
        """Summed over all who have added up theirs."""
        return dict(zip(self.found, total(list(self.found.values())), strict=True))


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


def local(tensor: Any) -> Any:
    """Of a tensor that may be cut the piece that this rank holds."""
    known = sys.modules.get("torch.distributed.tensor")  # where nothing is cut, it need not be loaded
    return tensor.to_local() if known is not None and isinstance(tensor, known.DTensor) else tensor


def whole(tensor: Any) -> Any:
    """A tensor that may be cut, from all pieces; asked by all ranks together."""
    return tensor if local(tensor) is tensor else tensor.full_tensor()


def update(optimizer: Any) -> None:
    """One optimizer step; gradients are freed, not zeroed."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
