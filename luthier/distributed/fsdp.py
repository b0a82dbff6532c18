"""Sharded data parallel: every rank holds a piece of each weight, and of what the optimizer keeps (torch FSDP2).

A layer is put together when it is needed and let go behind it (Zhao et al. 2023, arXiv:2304.11277). With fewer shards
than processes, copies of the sharded model share the rows (hybrid sharding).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from luthier.distributed.mesh import Axes, Mesh
from luthier.distributed.strategy import Around, LossOf, Movable, Of
from luthier.distributed.together import Cut, Size, Together

if TYPE_CHECKING:
    from torch import nn


class Fsdp(Cut):
    """Every process holds a piece of the model; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["fsdp"] = "fsdp"
    shard: Size = 0
    """Pieces of a copy of the model; 0: as many as there are processes."""
    cpu_offload: bool = False
    """Keep weights, gradients and the optimizer in the CPU's memory, and fetch a layer when it is needed."""
    reshard_after_forward: bool = True
    """Let a layer go behind its forward pass, and put it together again for its backward pass."""

    def open(self) -> FsdpStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun, or the number of processes does not fit.
        """
        axes = Axes(data=0, shard=self.shard) if self.shard else Axes(shard=0)
        return FsdpStrategy(self.join(axes), self)


class FsdpStrategy(Together):
    """Every layer is a unit, and what stands around the layers is one more."""

    cut = answers = True

    def __init__(self, mesh: Mesh, settings: Fsdp | None = None) -> None:
        super().__init__(mesh)
        self.settings = settings or Fsdp()

    def prepare(self, model: nn.Module, around: Around) -> nn.Module:
        """Cut the model in its place."""
        from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

        from luthier.distributed.layers import layers_of

        more: dict[str, Any] = {}
        if self.settings.cpu_offload:
            more["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        more |= {"mesh": self.axes(), "reshard_after_forward": self.settings.reshard_after_forward}
        holder, name = layers_of(model)
        for layer in getattr(holder, name):
            fully_shard(layer, **more)
        fully_shard(model, **more | {"reshard_after_forward": False})
        return model

    @contextmanager
    def asked(self, model: nn.Module) -> Iterator[None]:
        """What stands around the layers stays whole behind a pass; the optimizer must not see that."""
        try:
            yield
        finally:
            let_go(model)

    def axes(self) -> Any:
        """The axis of pieces, behind that of copies where there are several."""
        return self.mesh.all[("data", "shard") if self.mesh.axes.data > 1 else ("shard",)]

    def forward_backward(
        self, model: nn.Module, batches: Sequence[Movable], loss_of: LossOf
    ) -> tuple[float, dict[str, float]]:
        """Behind it, as behind every pass, each rank holds its pieces only."""
        found = super().forward_backward(model, batches, loss_of)
        let_go(model)
        return found

    def measure(self, model: nn.Module, batches: Iterable[Movable], of: Of) -> dict[str, float]:
        """Likewise; without a backward pass what stands around the layers would stay whole."""
        found = super().measure(model, batches, of)
        let_go(model)
        return found

    @contextmanager
    def gathered(self, model: nn.Module, *, frozen: bool, write: bool = False) -> Iterator[None]:
        """Likewise, on all ranks, as saving does it on the one that saves."""
        let_go(model)
        hooks = {module: module._load_state_dict_post_hooks for module in model.modules() if write}
        for module in hooks:  # torch's own look for pieces where whole weights are loaded
            module._load_state_dict_post_hooks = OrderedDict()
        try:
            with super().gathered(model, frozen=frozen, write=write):
                yield
        finally:
            for module, own in hooks.items():
                module._load_state_dict_post_hooks = own


def let_go(model: nn.Module) -> None:
    """Keep the pieces of this rank only."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
