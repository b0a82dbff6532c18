"""What a run holds in memory, by part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luthier.distributed.strategy import local


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that stay from step to step."""

    weights: int
    gradients: int
    optimizer: int

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("gradients", self.gradients), ("optimizer", self.optimizer))
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts)


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
    """Weights and buffers; gradients of what is trained, whether or not they are there just now; optimizer state."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return Held(_bytes(tensors), _bytes(trained), _bytes(states))


def _bytes(tensors: object) -> int:
    pieces = map(local, tensors)  # type: ignore[call-overload]
    return sum(piece.numel() * piece.element_size() for piece in pieces if not piece.is_meta)
