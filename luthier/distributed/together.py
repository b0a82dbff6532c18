"""What strategies of several processes share: sums, clipping, and whole tensors of cut ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luthier.distributed.mesh import Axes, Mesh, world
from luthier.distributed.strategy import Found, LossOf, Movable, Of, Sums, local, pick_device, update, whole
from luthier.errors import ProcessLost, UserError
from luthier.plugins import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from luthier.config import RunConfig


SMALL = 1_000_000
"""Numbers of a tensor that is sent alone."""
Size = Annotated[int, Field(ge=0)]
ELEMENTWISE_ADAPTERS = ("lora", "full", "freeze", "bottleneck", "ia3", "vera")
ELEMENTWISE_OPTIMIZERS = ("adamw", "lion", "schedule-free")
OFFLINE = ("sft", "pretrain", "dpo", "kto", "orpo", "simpo", "cpo", "distill", "reward")


class Parallel(Part):
    """The config part of a strategy of several processes."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """How long the others wait for a process that hangs before the run ends and names it."""

    def require(self, config: RunConfig) -> None:
        """Works with everything."""

    def ranks(self) -> int:
        """The number that torchrun announces."""
        return world()

    def join(self, axes: Axes) -> Mesh:
        """Join the others, each on its own device."""
        device = pick_device(int(os.environ.get("LOCAL_RANK", "0")))
        return Mesh(axes, device, timeout_seconds=self.timeout_seconds)


class Cut(Parallel):
    """The config part of a strategy under which no process holds the whole model."""

    def require(self, config: RunConfig) -> None:
        """What looks at each number of a weight alone can be done to pieces, and what all processes do alike."""
        self.allow(config, "adapter", ELEMENTWISE_ADAPTERS, "parallel: ddp")
        self.allow(config, "objective", OFFLINE, "parallel: ddp")
        self.allow(config.train, "optimizer", ELEMENTWISE_OPTIMIZERS, "parallel: ddp")
        if config.train.precision == "fp16":
            raise UserError(f"parallel: {self.type} trains in bf16 or fp32; write train.precision: auto")

    def allow(self, config: Any, part: str, allowed: tuple[str, ...], instead: str) -> None:
        """Refuse a kind of part that is not among these."""
        kind = getattr(config, part).type
        if kind not in allowed:
            path = part if hasattr(config, "adapter") else f"train.{part}"
            raise UserError(
                f"{path}: {kind} does not go with parallel: {self.type}, under which no process holds the whole model; "
                f"it takes {', '.join(allowed)}. Write one of them, or {instead}"
            )

    def require_plain_lora(self, config: RunConfig) -> None:
        """Refuse LoRA that computes with its matrices in another way than as layers, one behind the other."""
        start = getattr(config.adapter, "init_lora_weights", "default")
        if start in ("pissa", "olora"):
            raise UserError(
                f"adapter.init_lora_weights: {start} does not go with parallel: {self.type}; write default or "
                "orthogonal, or parallel: fsdp"
            )


class Together:
    """One of several processes; each strategy writes what differs."""

    cut = answers = False
    micro_batches = 1
    averaged: float
    """Over how many ranks gradients are averaged by torch, which the loss is multiplied by beforehand."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.device = mesh, mesh.device
        self.averaged = float(mesh.shares)
        self.rank, self.ranks, self.share, self.shares = mesh.rank, mesh.ranks, mesh.share, mesh.shares
        self.sum, self.any, self.gather, self.close = mesh.sum, mesh.any, mesh.gather, mesh.close
        self.lost, self.saves_pieces = mesh.lost, self.cut

    def asked(self, model: nn.Module) -> AbstractContextManager[None]:
        """As if it were whole."""
        return nullcontext()

    def adopt(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """As it is."""
        return optimizer

    def go_through(self, model: nn.Module, batch: Movable, loss_of: LossOf, *, last: bool) -> Found:
        """Forward and backward through one micro-batch; undoes the mean over shares that torch makes."""
        loss, found = loss_of(model, batch)
        (loss * self.averaged).backward()  # type: ignore[no-untyped-call]
        return {"": loss, **found}

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """One micro-batch after the other."""
        sums = Sums()
        for number, batch in enumerate(batches, 1):
            self.mesh.begins(f"the pass of micro-batch {number} of {len(batches)}")
            sums.add(self.go_through(model, batch.to(self.device), loss_of, last=number == len(batches)))
        total = sums.over(self.sum)
        return total.pop(""), total

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """Every share its own."""
        self.mesh.begins("a measurement")
        return Sums.of(model, batches, of, self.device).over(self.sum)

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """By the norm over all pieces of all gradients; each rank scales what it holds."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return self.scale(gradients, float(squares(gradients, device=self.device).sqrt()), max_norm)

    def scale(self, gradients: Sequence[Tensor], norm: float, max_norm: float | None) -> float:
        """Down to the largest norm; returns the one before."""
        import torch

        if max_norm is not None and norm > max_norm and gradients:
            torch._foreach_mul_([local(gradient) for gradient in gradients], max_norm / (norm + 1e-6))
        return norm

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update; each rank what it holds."""
        update(optimizer)

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """This rank's piece, as every rank has the whole."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return tensor
        return distribute_tensor(tensor.to(self.device), like.device_mesh, like.placements, src_data_rank=None)

    @contextmanager
    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> Iterator[None]:
        """Whole parameters in the memory of the CPU: on the first rank, or where they are written on all."""
        import torch

        cut: dict[nn.Parameter, nn.Parameter] = {}
        for parameter in model.parameters():
            if (parameter.requires_grad or frozen) and local(parameter) is not parameter:
                found = whole(parameter.detach())  # which all ranks make together
                if write or self.rank == 0:
                    cut[parameter] = torch.nn.Parameter(found.cpu(), requires_grad=parameter.requires_grad)
        with swapped(model, cut):
            yield
        if write:
            with torch.no_grad():
                for piece, found in cut.items():
                    piece.copy_(self.part(found, piece))

    def save(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """The first process one file of what all have, or each process what it has."""
        from safetensors.torch import save_file

        self.mesh.begins("writing a checkpoint")
        if self.saves_pieces:
            save_pieces(tensors, file.with_suffix(""), rank=self.rank)
        elif self.rank == 0:
            save_file(dict(tensors), file)

    def barrier(self) -> None:
        """Wait for all ranks."""
        import torch.distributed as dist

        self.mesh.begins("waiting for all ranks")
        dist.barrier()


def leave_file(model: nn.Module) -> None:
    """Copy weights that are mapped from their file: else it would stay in memory, with all that this rank has not."""
    for parameter in model.parameters():
        if local(parameter) is parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def save_pieces(tensors: Mapping[str, Tensor], folder: Path, *, rank: int) -> None:
    """Every process what it holds, what several hold once, by torch.distributed.checkpoint, as safetensors.

    Raises:
        OSError: it could not be written by this process.
        ProcessLost: it could not by another one, which says why.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True, enable_consolidation=False)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise error.failures[rank][0] if rank in error.failures else ProcessLost("") from error


@contextmanager
def swapped(model: nn.Module, others: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """The model with other parameters in the place of some, wherever those stand."""
    places = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter in others
    ]
    try:
        for held, name, parameter in places:
            held[name] = others[parameter]
        yield
    finally:
        for held, name, parameter in places:
            held[name] = parameter


def add_up(tensors: Sequence[Tensor], group: Any) -> None:
    """Sum each over a group, in its place; small ones go together."""
    import torch
    import torch.distributed as dist

    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() > SMALL:
            dist.all_reduce(tensor, group=group)
        else:
            small.setdefault(tensor.dtype, []).append(tensor)
    for pieces in small.values():
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        dist.all_reduce(flat, group=group)
        parts = torch.split(flat, [piece.numel() for piece in pieces])
        torch._foreach_copy_(pieces, [part.view_as(piece) for part, piece in zip(parts, pieces, strict=True)])


def squares(tensors: Sequence[Tensor], *, device: torch.device) -> Tensor:
    """The sum of squares of all numbers, in float64; pieces of cut tensors are added up over those who hold them."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Shard

    apart: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups: tuple[Any, ...] = ()
        if isinstance(tensor, DTensor):
            axes = [n for n, placement in enumerate(tensor.placements) if isinstance(placement, Shard)]
            groups = tuple(tensor.device_mesh.get_group(axis) for axis in axes)
        apart.setdefault(groups, []).append(local(tensor))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for groups, pieces in apart.items():  # dicts keep the order, which is the same on all ranks
        found = torch.stack(torch._foreach_norm(pieces)).double().square().sum().to(device)
        for group in groups:
            dist.all_reduce(found, group=group)
        total += found
    return total
