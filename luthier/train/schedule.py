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


class CosineRestarts(Part):
    """Several half cosines, each from the peak down to `minimum` (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    type: Literal["cosine-restarts"] = "cosine-restarts"
    cycles: Annotated[int, Field(gt=0)] = 2
    """Half cosines, all of one length."""
    minimum: Share = 0.0
    """Share of the peak at the end of each."""

    def factor(self, progress: float) -> float:
        """Falls from 1 to `minimum` in each cycle, and begins the next at 1."""
        within = (self.cycles * progress) % 1.0 if progress < 1 else 1.0
        return _fall(0.5 * (1 + math.cos(math.pi * within)), self.minimum)


class Wsd(Part):
    """Warm-up, stable, decay: the peak, and a fall at the end (Hu et al. 2024, arXiv:2404.06395)."""

    type: Literal["wsd"] = "wsd"
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the steps after the warm-up in which the rate falls."""
    shape: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt"
    """How it falls; 1-sqrt was best of those tried by Haegele et al. 2024, arXiv:2405.18392."""
    minimum: Share = 0.0
    """Share of the peak at the end."""

    def factor(self, progress: float) -> float:
        """1, then falls to `minimum`."""
        within = min(max(progress - (1 - self.decay), 0.0) / self.decay, 1.0)
        left = {
            "linear": 1 - within,
            "cosine": 0.5 * (1 + math.cos(math.pi * within)),
            "1-sqrt": 1 - math.sqrt(within),
        }
        return _fall(left[self.shape], self.minimum)


class Polynomial(Part):
    """A power of the share of steps that is left, from the peak down to `minimum`."""

    type: Literal["polynomial"] = "polynomial"
    power: Annotated[float, Field(gt=0)] = 2.0
    """1 is a straight line; more falls sooner."""
    minimum: Share = 0.0
    """Share of the peak at the end."""

    def factor(self, progress: float) -> float:
        """Falls from 1 to `minimum`."""
        return _fall((1 - progress) ** self.power, self.minimum)


class Constant(Part):
    """The peak all the way."""

    type: Literal["constant"] = "constant"

    def factor(self, progress: float) -> float:
        """Always 1."""
        return 1.0


def _fall(left: float, minimum: float) -> float:
    """From 1 where all is left to `minimum` where nothing is."""
    return minimum + (1 - minimum) * left


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
