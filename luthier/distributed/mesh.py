"""The mesh: which processes do what together. Every axis of it has its one owner here.

From the outermost to the innermost: `pipeline` (stages of layers), `data` (whole copies of the model), `shard` (copies
that are cut into pieces), `sequence` (parts of long rows), `tensor` (parts of each layer). Neighbours in the innermost
axis talk most, so they are neighbours on the machine. Copies, whole or cut, share the rows of a step; all other
processes of a copy see the same rows.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache
from math import prod
from threading import Thread
from typing import TYPE_CHECKING, Any

from luthier.errors import ProcessLost, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

GONE = re.compile(r"(closed|reset) by peer|Broken pipe|Connection refused", re.IGNORECASE)
LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
"""How torch says that another process has ended, or does not answer."""
PATIENCE = 5.0
"""Seconds in which all that wait have noticed it."""
START = "luthier train CONFIG --devices 2"


def world() -> int:
    """How many processes were started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, slots=True)
class Axes:
    """The size of each axis; 0 for the one that takes what is left."""

    pipeline: int = 1
    data: int = 1
    shard: int = 1
    sequence: int = 1
    tensor: int = 1

    def over(self, processes: int) -> Axes:
        """The same with every size known.

        Raises:
            UserError: so many processes cannot be cut like this.
        """
        sizes: dict[str, int] = asdict(self)
        fixed = {name: size for name, size in sizes.items() if size > 1}
        taken = prod(fixed.values())
        open_axis = next((name for name, size in sizes.items() if size == 0), None)
        said = " x ".join(f"{name} {size}" for name, size in fixed.items()) or "one process"
        if open_axis is None and taken != processes:
            raise UserError(
                f"parallel: {said} takes {taken} processes, {processes} were started; write --devices {taken}"
            )
        if open_axis is not None and processes % taken:
            nearest = max(processes // taken, 1) * taken
            raise UserError(
                f"parallel: {said} does not divide {processes} processes; start {nearest} or {nearest + taken} of them"
            )
        return self if open_axis is None else replace(self, **{open_axis: processes // taken})


class Mesh:
    """The place of this process among all."""

    def __init__(self, axes: Axes, device: torch.device, *, timeout_seconds: float = 1800) -> None:
        """Join the processes that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun or its like, or the sizes do not fit.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise UserError(f"parallel: this needs several processes; start it with: {START}")
        self.axes, self.device = axes.over(world()), device
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        self._joined = not dist.is_initialized()  # else the caller has joined them, for several runs
        self.timeout = timedelta(seconds=timeout_seconds)
        self._board: Any = None
        """Where each process says what it begins, for those that wait in vain."""
        self._begun, self._alone = 0, False
        if self._joined:
            self._board, rank, size = next(rendezvous("env://", timeout=self.timeout))
            kind = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(kind, store=self._board, rank=rank, world_size=size, timeout=self.timeout)
        self.all = _devices(device.type, self.axes)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.shares = self.axes.data * self.axes.shard
        self.share = self.place("data") * self.axes.shard + self.place("shard")
        self._sharing = self.all["data", "shard"]._flatten("shares").get_group()
        self.begins("reading and rendering the data")

    def place(self, axis: str) -> int:
        """Where on an axis this process stands."""
        return int(self.all.get_local_rank(axis))

    def begins(self, what: str) -> None:
        """Note what this process does next, with the time and how much it has begun so far."""
        self._begun += 1
        if self._board is not None:
            self._board.set(f"luthier/{self.rank}", f"{self._begun}\n{time.strftime('%H:%M:%S')}\n{what}")

    def lost(self, error: Exception) -> ProcessLost | None:
        """What an error of torch says of the other processes: one hangs, and what it last began, or one has ended."""
        late = bool(LATE.search(str(error))) and self._board is not None
        if not late and not GONE.search(str(error)):
            return None
        self._alone = True
        return self._late() if late else ProcessLost("")

    def _late(self) -> ProcessLost:
        """Which process hangs: one that does not say that it waits too. Empty where another one says it."""
        begun: dict[int, tuple[int, str, str]] = {}
        waits: set[int] = set()
        patience = min(self.timeout.total_seconds(), PATIENCE)

        def read() -> None:
            names = [f"luthier/waits/{rank}" for rank in range(self.ranks)]
            with suppress(RuntimeError):  # the process that holds it has ended, and said why
                self._board.set(names[self.rank], "")
                until = time.monotonic() + patience
                while not self._board.check(names) and time.monotonic() < until:
                    time.sleep(0.1)
                waits.update(rank for rank, name in enumerate(names) if self._board.check([name]))
                for rank in range(self.ranks):
                    count, at, what = self._board.get(f"luthier/{rank}").decode().split("\n")
                    begun[rank] = (int(count), at, what)

        reader = Thread(target=read, daemon=True)  # the first process holds the board; if it hangs, reading does too
        reader.start()
        reader.join(2 * patience)
        waited = f"nothing was heard within {self.timeout.total_seconds():g} s (parallel.timeout_seconds)"
        if reader.is_alive():
            return ProcessLost(f"{waited}: rank 0 hangs; the last checkpoint is intact")
        if len(begun) < self.ranks:
            return ProcessLost("")
        late = min(begun, key=lambda rank: (rank in waits, begun[rank][0]))
        if self.rank != min(waits - {late}):
            return ProcessLost("")  # one says it for all
        _, at, what = begun[late]
        here = begun[self.rank][2]
        return ProcessLost(
            f"{waited}: rank {late} hangs in {what}, since {at}; the others wait for it in {here}. The last checkpoint "
            "is intact"
        )

    def sum(self, values: Sequence[float]) -> list[float]:
        """All-reduce over the processes that share the rows, in float64."""
        import torch
        import torch.distributed as dist

        self.begins("a sum over ranks")
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, group=self._sharing)
        return [float(value) for value in tensor]

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Whether any process says yes."""
        import torch
        import torch.distributed as dist

        self.begins("a question to all ranks")
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """All-gather over all processes, on the device."""
        import torch
        import torch.distributed as dist

        self.begins("gathering from all ranks")
        here = tensor.to(self.device)
        parts = [torch.empty_like(here) for _ in range(self.ranks)]
        dist.all_gather(parts, here)
        return [part.cpu() for part in parts]

    def close(self) -> None:
        """Leave the others, unless the caller had joined them."""
        import torch.distributed as dist

        if self._joined and not self._alone:  # else it would wait for the lost one
            dist.destroy_process_group()


@cache
def _devices(kind: str, axes: Axes) -> DeviceMesh:
    """All processes along all axes; made once, since each has groups with threads of their own."""
    from torch.distributed.device_mesh import init_device_mesh

    sizes: dict[str, int] = asdict(axes)
    return init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
