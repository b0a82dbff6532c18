"""Shapes of the learning rate after the warm-up: each a settings class with `factor`."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field

from luthier.plugins import Part

Share = Annotated[float, Field(ge=0, le=1)]


@runtime_checkable
class Schedule(Protocol):
    """The config part of a schedule."""

    type: str

    def factor(self, progress: float) -> float:
        """The share of the peak learning rate at `progress` in [0, 1] of the steps after the warm-up."""


class Cosine(Part):
    """Half a cosine from the peak down to `minimum` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5)."""

    type: Literal["cosine"] = "cosine"
    minimum: Share = 0.0
    """Share of the peak at the end."""

    def factor(self, progress: float) -> float:
        """Falls from 1 to `minimum`."""
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * progress))


class Linear(Part):
    """A straight line from the peak down to `minimum`."""

    type: Literal["linear"] = "linear"
    minimum: Share = 0.0
    """Share of the peak at the end."""

    def factor(self, progress: float) -> float:
        """Falls from 1 to `minimum`."""
        return 1 - (1 - self.minimum) * progress


class Constant(Part):
    """The peak all the way."""

    type: Literal["constant"] = "constant"

    def factor(self, progress: float) -> float:
        """Always 1."""
        return 1.0


def warmup_length(setting: float, total_steps: int) -> int:
    """Steps of warm-up: a share of all steps when below 1, else a number of steps; never the whole run.

    A share that is less than one step is none: the first step of a warm-up has a rate of 0, as in transformers.
    """
    share = setting * total_steps
    steps = int(setting) if setting >= 1 else math.ceil(share) if share >= 1 else 0
    return min(steps, max(total_steps - 1, 0))


def learning_rate(schedule: Schedule, step: int, *, total_steps: int, warmup: int, peak: float) -> float:
    """The learning rate of the optimizer step that follows `step` finished ones.

    As in transformers: it rises from 0 over the warm-up and falls towards the step after the last.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * schedule.factor((step - warmup) / max(1, total_steps - warmup))
