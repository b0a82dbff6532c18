"""Data parallel: every rank holds the model and a share of each step's rows (torch DistributedDataParallel)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from luthier.distributed.strategy import LossOf, Movable, clip_gradients, pick_device, update
from luthier.errors import UserError
from luthier.plugins import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Ddp(Part):
    """One process per device, each with the whole model; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["ddp"] = "ddp"

    def open(self) -> DdpStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise UserError("parallel: ddp needs several processes; start it with: luthier train CONFIG --devices 2")
        import torch.distributed as dist

        device = pick_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return DdpStrategy(device, dist.get_rank(), dist.get_world_size())

    def ranks(self) -> int:
        """The size that torchrun announces."""
        return int(os.environ.get("WORLD_SIZE", "1"))


class DdpStrategy:
    """Gradients are reduced once a step, in the backward pass of the last micro-batch."""

    def __init__(self, device: torch.device, rank: int, ranks: int) -> None:
        self.device, self.rank, self.ranks = device, rank, ranks

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model and wrap it; weights of rank 0 are sent to the others."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model.to(self.device))

    def sum(self, values: Sequence[float]) -> list[float]:
        """All-reduce in float64."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def forward_backward(self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf) -> float:
        """Undoes the division by the number of ranks that DistributedDataParallel makes."""
        total = 0.0
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else model.no_sync():  # type: ignore[operator]
                loss = loss_of(model, batch.to(self.device))
                (loss * self.ranks).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return self.sum([total])[0]

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Gradients are equal on all ranks, so each clips alone."""
        return clip_gradients(model, max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update; equal on all ranks."""
        update(optimizer)

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """A sum over ranks."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """All-gather on the device."""
        import torch
        import torch.distributed as dist

        here = tensor.to(self.device)
        parts = [torch.empty_like(here) for _ in range(self.ranks)]
        dist.all_gather(parts, here)
        return [part.cpu() for part in parts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        import torch.distributed as dist

        dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        import torch.distributed as dist

        dist.destroy_process_group()
