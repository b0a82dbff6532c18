"""AdamW, and the same with its state in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from luthier.plugins import Part
from luthier.train.optim.base import Betas, Count, Group, Positive, require_library

if TYPE_CHECKING:
    import torch

    from luthier.config import RunConfig


class AdamW(Part):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), torch's fused version."""

    type: Literal["adamw"] = "adamw"
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def require(self, config: RunConfig) -> None:
        """Works everywhere."""

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """torch's AdamW over the groups."""
        import torch

        options = [group.options() for group in groups]
        return torch.optim.AdamW(options, lr=0.0, betas=self.betas, eps=self.eps, fused=True)


class AdamW8bit(Part):
    """AdamW with its two means in 8 bits, a quarter of the memory (Dettmers et al. 2022, arXiv:2110.02861)."""

    type: Literal["adamw-8bit"] = "adamw-8bit"
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    min_8bit_size: Count = 4096
    """Parameters with fewer elements keep their means in 32 bits."""

    def require(self, config: RunConfig) -> None:
        """Needs bitsandbytes."""
        require_library(self.type, "bitsandbytes", "quantize")

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """AdamW8bit of bitsandbytes, on CPU and GPU."""
        from bitsandbytes.optim import AdamW8bit as Library

        made: torch.optim.Optimizer = Library(
            [group.options() for group in groups],
            lr=0.0,
            betas=self.betas,
            eps=self.eps,
            min_8bit_size=self.min_8bit_size,
        )
        return made
