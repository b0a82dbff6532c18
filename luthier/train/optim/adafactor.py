"""Adafactor: the mean of squares of a matrix kept as one row and one column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luthier.train.optim.base import Beta, Group, Optimizer, OptimizerSettings, Positive


class Adafactor(OptimizerSettings):
    """AdamW with almost no state (Shazeer & Stern 2018, arXiv:1804.04235), of transformers, at the schedule's rate."""

    type: Literal["adafactor"] = "adafactor"
    eps: tuple[Positive, Positive] = (1e-30, 1e-3)
    """Added to squared gradients; least scale of a parameter, for `scale_parameter`."""
    clip_threshold: Positive = 1.0
    """Largest root mean square of an update."""
    decay_rate: float = -0.8
    """Exponent with which the mean of squares forgets: 1 - step ** decay_rate."""
    beta1: Beta | None = None
    """Decay of the running mean of gradients; null: none is kept."""
    scale_parameter: bool = False
    """Multiply the learning rate by the root mean square of each parameter."""

    def build(self, groups: Sequence[Group]) -> Optimizer:
        """Adafactor of transformers, without its own learning rates."""
        from transformers import Adafactor as Library

        return self.made(Library, groups, relative_step=False)
