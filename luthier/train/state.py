"""Where a run is: everything besides weights and optimizer that decides what happens next."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """Finished steps, tokens seen, the place in the data, and the best held-out loss so far with its step.

    Where another measurement chooses the best, and more of it is better, `best_loss` is its negative.
    """

    step: int = 0
    tokens: int = 0
    epoch: int = 0
    position: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    better_step: int | None = None
    """The last step that was better than all before it, where `best_step` may be one that was as good."""
    usual_norm: float = 0.0
    """Running mean of the gradient norm."""
    skipped: int = 0
    """Steps that could not be made."""
    skipped_in_a_row: int = 0

    def after(self, *, tokens: int, epoch: int, position: int, norm: float) -> State:
        """One optimizer step later. An infinite norm (an overflow in fp16) is not usual."""
        keep = 0.9 if self.step else 0.0
        usual = keep * self.usual_norm + (1 - keep) * norm if math.isfinite(norm) else self.usual_norm
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + tokens,
            epoch=epoch,
            position=position,
            usual_norm=usual,
            skipped_in_a_row=0,
        )

    def past(self, *, epoch: int, position: int) -> State:
        """Behind rows that were not learnt."""
        skipped, in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        return replace(self, epoch=epoch, position=position, skipped=skipped, skipped_in_a_row=in_a_row)

    def judged(self, loss: float) -> State:
        """With an evaluation taken into account; of equal losses the later counts, of rewards there are often some."""
        better = not math.isnan(loss) and (self.best_loss is None or loss <= self.best_loss)
        new = better and loss != self.best_loss
        return (
            replace(self, best_loss=loss, best_step=self.step, better_step=self.step if new else self.better_step)
            if better
            else self
        )

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
