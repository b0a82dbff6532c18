"""Lion: the sign of a running mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from luthier.plugins import Part
from luthier.train.optim.base import Betas, Group, require_library

if TYPE_CHECKING:
    import torch

    from luthier.config import RunConfig


class Lion(Part):
    """Steps of one size along signs (Chen et al. 2023, arXiv:2302.06675); takes a rate 3 to 10 times lower than AdamW.

    Half the state of AdamW. From lion-pytorch, which is plain torch and so the same on CPU and GPU.
    """

    type: Literal["lion"] = "lion"
    betas: Betas = (0.9, 0.99)
    """Share of the running mean in a step; decay of the running mean."""

    def require(self, config: RunConfig) -> None:
        """Needs lion-pytorch."""
        require_library(self.type, "lion_pytorch", "optimizers")

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """Lion of lion-pytorch."""
        from lion_pytorch import Lion as Library

        made: torch.optim.Optimizer = Library([group.options() for group in groups], betas=self.betas)
        return made
