"""One process, one device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.distributed.mesh import world
from luthier.distributed.strategy import Around, LossOf, Movable, Of, Sums, clip_gradients, pick_device, update
from luthier.errors import ProcessLost, UserError
from luthier.plugins import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from luthier.config import RunConfig


class Single(Part):
    """Train in one process."""

    type: Literal["single"] = "single"

    def open(self) -> SingleStrategy:
        """The strategy on this process's device.

        Raises:
            UserError: several processes were started, which would all do the same work in the same folder.
        """
        if world() > 1:
            raise UserError("parallel: single in several processes; write parallel: auto or ddp, or start one process")
        return SingleStrategy(pick_device(0))

    def require(self, config: RunConfig) -> None:
        """Works with everything."""

    def ranks(self) -> int:
        """One."""
        return 1


class SingleStrategy:
    """The plain way to do everything; every other strategy must equal it."""

    rank, ranks = 0, 1
    share, shares = 0, 1
    cut, answers = False, True
    micro_batches = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: nn.Module, around: Around) -> nn.Module:
        """Move the model."""
        return model.to(self.device)

    def adopt(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """As it is."""
        return optimizer

    def asked(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing is cut."""
        return nullcontext()

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """One micro-batch after the other."""
        sums = Sums()
        for batch in batches:
            loss, found = loss_of(model, batch.to(self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            sums.add({"": loss, **found})
        return sums.found.pop("", 0.0), sums.found

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """One after the other."""
        return Sums.of(model, batches, of, self.device).found

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Over all gradients."""
        return clip_gradients(model, max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update."""
        update(optimizer)

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """The flag."""
        return flag

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor."""
        return [tensor]

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """All of it."""
        return tensor

    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> AbstractContextManager[None]:
        """They are."""
        return nullcontext()

    def save(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """One file."""
        from safetensors.torch import save_file

        save_file(dict(tensors), file)

    def barrier(self) -> None:
        """Nothing to wait for."""

    def lost(self, error: Exception) -> ProcessLost | None:
        """There are none."""
        return None

    def close(self) -> None:
        """Nothing to give back."""
