"""Where a run is: everything besides weights and optimizer that decides what happens next."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """Finished steps, tokens seen, the place in the data, and the best held-out loss so far with its step."""

    step: int = 0
    tokens: int = 0
    epoch: int = 0
    position: int = 0
    best_loss: float | None = None
    best_step: int | None = None

    def after(self, *, tokens: int, epoch: int, position: int) -> State:
        """One optimizer step later."""
        return replace(self, step=self.step + 1, tokens=self.tokens + tokens, epoch=epoch, position=position)

    def judged(self, loss: float) -> State:
        """With an evaluation taken into account; an equal loss does not replace an earlier best, nor does NaN."""
        better = not math.isnan(loss) and (self.best_loss is None or loss < self.best_loss)
        return replace(self, best_loss=loss, best_step=self.step) if better else self

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive exactly."""
        return asdict(self)


def random_state(device: torch.device) -> Tensor:
    """The state of this rank's generators as bytes `[n]`: the CPU's, then its GPU's."""
    parts = [torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def restore_random_state(state: Tensor, device: torch.device) -> None:
    """Put back what `random_state` returned."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(state[:size].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:].clone(), device)


def seed_everything(seed: int, rank: int) -> None:
    """Seed torch; ranks differ, so that their dropout does."""
    torch.manual_seed(seed + 1_000_003 * rank)
