"""BAdam: full tuning, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

from luthier.config import RunConfig
from luthier.distributed.strategy import StrategySettings
from luthier.errors import UserError
from luthier.objectives.base import Objective
from luthier.train.optim.base import Betas, Count, Group, Optimizer, OptimizerSettings, Positive, require_base


class BAdam(OptimizerSettings):
    """AdamW on one layer after the other, which alone has gradients and state (Luo et al. 2024, arXiv:2404.02827)."""

    type: Literal["badam"] = "badam"
    module: ClassVar[str] = "badam"
    switch_block_every: Count = 50
    """Steps before the next layer is trained."""
    switch_mode: Literal["descending", "ascending", "random"] = "descending"
    """Order of the layers."""
    include_embedding_and_head: bool = False
    """Train embeddings, head and last norm too, as one more block."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def require(self, config: RunConfig) -> None:
        """Needs badam, one process, and an adapter that trains the model's own weights."""
        require_base(self.type, config, "trains the model's own layers one after the other")
        needs = cast(Objective, config.objective).needs
        if (needs.scores or needs.values) and not self.include_embedding_and_head:
            raise UserError(
                f"train.optimizer: badam trains one layer after the other, and would never train the new head that "
                f"objective: {config.objective.type} needs outside of them; add include_embedding_and_head: true"
            )
        ranks = cast(StrategySettings, config.parallel).ranks()
        if ranks > 1:
            raise UserError(
                f"train.optimizer: badam changes which weights are trained during the run, which {ranks} processes "
                "that share gradients cannot follow; start one process, or write optimizer: galore"
            )
        super().require(config)

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """BlockOptimizer of badam over torch's AdamW.

        Raises:
            UserError: no layer is trained.
        """
        from luthier.train.optim.blocks import Blocks, blocks

        found = blocks(groups, rest=self.include_embedding_and_head)
        if not found:
            raise UserError("train.optimizer: badam: no layer of this model is trained; write optimizer: adamw")
        settings = {"switch_block_every": self.switch_block_every, "switch_mode": self.switch_mode}
        return Blocks(groups, found, settings, betas=self.betas, eps=self.eps)
