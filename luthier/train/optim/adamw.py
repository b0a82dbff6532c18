"""AdamW, and the same with its state in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.train.optim.base import Betas, Count, Group, Optimizer, OptimizerSettings, Positive


class Adam(OptimizerSettings):
    """What both have."""

    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), torch's fused version."""

    type: Literal["adamw"] = "adamw"

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """torch's AdamW over the groups."""
        import torch

        return self.made(torch.optim.AdamW, groups, fused=True)


class AdamW8bit(Adam):
    """AdamW with its two means in 8 bits, a quarter of the memory (Dettmers et al. 2022, arXiv:2110.02861)."""

    type: Literal["adamw-8bit"] = "adamw-8bit"
    module: ClassVar[str] = "bitsandbytes"
    extra: ClassVar[str] = "quantize"
    min_8bit_size: Count = 4096
    """Parameters with fewer elements keep their means in 32 bits."""

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """AdamW8bit of bitsandbytes, on CPU and GPU."""
        from bitsandbytes.optim import AdamW8bit as Library

        return self.made(Library, groups)
