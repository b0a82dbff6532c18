"""GaLore and APOLLO: full tuning whose optimizer state lives in a low-rank space.

Both keep a projector for each hidden matrix, which is remade every so many steps. The libraries make it in the first
step; here it is made before, so that a checkpoint finds it in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from luthier.config import RunConfig
from luthier.errors import UserError
from luthier.train.optim.base import Betas, Count, Group, Optimizer, OptimizerSettings, Positive, require_base

_WHY = "keeps its state of the model's own matrices small"


class LowRank(OptimizerSettings):
    """What both have."""

    def require(self, config: RunConfig) -> None:
        """Needs its library, and an adapter that trains the model's own weights."""
        require_base(self.type, config, _WHY)
        super().require(config)


class GaLore(LowRank):
    """AdamW on gradients projected to their largest singular vectors (Zhao et al. 2024, arXiv:2403.03507)."""

    type: Literal["galore"] = "galore"
    module: ClassVar[str] = "galore_torch"
    rank: Count = 128
    """Singular vectors kept of each hidden matrix."""
    update_proj_gap: Count = 200
    """Steps between two projections."""
    scale: Positive = 0.25
    """Factor of the updates of hidden matrices."""
    proj_type: Literal["std", "reverse_std", "right", "left"] = "std"
    """Which side of a matrix is projected; std: the shorter one."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-6
    """Added to the denominator."""

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """GaLoreAdamW of galore-torch: hidden matrices projected, the rest as AdamW."""
        from galore_torch import GaLoreAdamW
        from galore_torch.galore_projector import GaLoreProjector

        keys = self.model_dump(include={"rank", "update_proj_gap", "scale", "proj_type"})
        optimizer: Optimizer = GaLoreAdamW(
            _options(self.type, groups, keys), lr=0.0, betas=self.betas, eps=self.eps, no_deprecation_warning=True
        )
        for parameter in _projected(optimizer):
            optimizer.state[parameter]["projector"] = GaLoreProjector(**keys)
        return optimizer


class Apollo(LowRank):
    """AdamW whose state only scales the gradients (Zhu et al. 2024, arXiv:2412.05270).

    APOLLO-Mini: `{rank: 1, scale: 128, scale_type: tensor}`.
    """

    type: Literal["apollo"] = "apollo"
    module: ClassVar[str] = "apollo_torch"
    rank: Count = 256
    """Rank of the space in which the state of each hidden matrix lives."""
    update_proj_gap: Count = 200
    """Steps between two projections."""
    scale: Positive = 1.0
    """Factor of the updates of hidden matrices; its square root is applied."""
    scale_type: Literal["channel", "tensor"] = "channel"
    """Whether each channel of a matrix has a scale of its own."""
    proj: Literal["random", "svd"] = "random"
    """Projections at random, or to the largest singular vectors."""
    proj_type: Literal["std", "reverse_std", "right", "left"] = "std"
    """Which side of a matrix is projected; std: the shorter one."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-6
    """Added to the denominator."""

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """APOLLOAdamW of apollo-torch: hidden matrices projected, the rest as AdamW."""
        from apollo_torch import APOLLOAdamW
        from apollo_torch.random_projector import GradientProjector
        from apollo_torch.svd_projector import GaLoreProjector

        keys = self.model_dump(include={"rank", "update_proj_gap", "scale", "proj_type"})
        options = _options(self.type, groups, {**keys, "scale_type": self.scale_type, "proj": self.proj})
        optimizer: Optimizer = APOLLOAdamW(options, lr=0.0, betas=self.betas, eps=self.eps)
        for parameter in _projected(optimizer):
            state = optimizer.state[parameter]
            random = self.proj == "random"
            state["projector"] = GradientProjector(**keys, seed=state["seed"]) if random else GaLoreProjector(**keys)
        return optimizer


def _options(kind: str, groups: Sequence[Group], keys: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups; those of hidden matrices have the keys by which the library knows what to project."""
    if not any(group.hidden for group in groups):
        raise UserError(f"train.optimizer: {kind} {_WHY}, and this adapter trains none; write adamw")
    return [group.options(**(keys if group.hidden else {})) for group in groups]


def _projected(optimizer: Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups if "rank" in group for parameter in group["params"]]
