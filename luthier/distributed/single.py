"""One process, one device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from luthier.distributed.strategy import LossOf, Movable, clip_gradients, pick_device, update
from luthier.errors import UserError
from luthier.plugins import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Single(Part):
    """Train in one process."""

    type: Literal["single"] = "single"

    def open(self) -> SingleStrategy:
        """The strategy on this process's device.

        Raises:
            UserError: several processes were started, which would all do the same work in the same folder.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("parallel: single in several processes; write parallel: auto or ddp, or start one process")
        return SingleStrategy(pick_device(0))

    def ranks(self) -> int:
        """One."""
        return 1


class SingleStrategy:
    """The plain way to do everything; every other strategy must equal it."""

    rank = 0
    ranks = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model."""
        return model.to(self.device)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def forward_backward(self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf) -> float:
        """One micro-batch after the other."""
        total = 0.0
        for batch in batches:
            loss = loss_of(model, batch.to(self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

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

    def barrier(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to give back."""
