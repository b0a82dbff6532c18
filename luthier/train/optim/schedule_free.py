"""Schedule-free AdamW: averaging in place of a falling learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.config import RunConfig
from luthier.errors import UserError
from luthier.train.optim.base import Beta, Group, Optimizer, OptimizerSettings, Positive


class ScheduleFree(OptimizerSettings):
    """AdamW at a constant rate, averaged in place of a falling one (Defazio et al. 2024, arXiv:2405.15682).

    Trained are the weights y of the paper, measured and saved its average x; checkpoints hold both.
    """

    type: Literal["schedule-free"] = "schedule-free"
    module: ClassVar[str] = "schedulefree"
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Beta] = (0.9, 0.999)
    """Share of the average in the weights of training; decay of the running mean of squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    r: Annotated[float, Field(ge=0)] = 0.0
    """Power of the step with which later weights count more in the average."""
    weight_lr_power: Annotated[float, Field(ge=0)] = 2.0
    """Power of the learning rate with which the weights of the warm-up count less in the average."""

    def require(self, config: RunConfig) -> None:
        """Needs schedulefree, a constant rate, and an adapter that leaves the weights alone between steps."""
        if config.train.schedule.type != "constant":
            raise UserError(
                f"train.optimizer: schedule-free takes the place of train.schedule: {config.train.schedule.type}; "
                "write schedule: constant (a warm-up may stay)"
            )
        if config.adapter.type == "adalora":
            raise UserError(
                "train.optimizer: schedule-free averages over all steps, and adapter: adalora sets weights to zero "
                "between them; write optimizer: adamw, or adapter: lora"
            )
        super().require(config)

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """AdamWScheduleFree of schedulefree."""
        from schedulefree import AdamWScheduleFree

        from luthier.train.optim.averaged import Averaged

        return Averaged(self.made(AdamWScheduleFree, groups))
