"""Loss scaling for fp16: the loss is multiplied, so that small gradients do not vanish (arXiv:1710.03740)."""

from __future__ import annotations

import torch
from torch import Tensor


class LossScaler:
    """torch's GradScaler in the order of the loop: scale, backward, unscale, clip, then step or not.

    The scale halves after a step whose gradients overflow, and doubles after 2000 steps without. It is a power of two,
    so that scaling loses nothing. Gradients must be equal on all ranks, which then agree.
    """

    def __init__(self, device_type: str, *, scale: float = 2.0**16) -> None:
        self._inner = torch.amp.GradScaler(device_type, init_scale=scale)
        self.skipped = 0
        """Steps that were not taken so far."""

    @property
    def scale(self) -> float:
        """What losses are multiplied by now."""
        return self._inner.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        found: Tensor = self._inner.scale(loss)
        return found

    def unscale(self, optimizer: torch.optim.Optimizer, loss: float) -> float:
        """Gradients as they would be without the scale, and the loss likewise; call once after the last backward."""
        self._inner.unscale_(optimizer)
        return loss / self.scale

    def overflowed(self) -> bool:
        """Whether this step's gradients overflow, so that it must not be taken; adapts the scale, call once a step.

        False when the scale has become so small that fp16 is not the reason.
        """
        before = self.scale
        self._inner.update()
        overflowed = 1 <= self.scale < before
        self.skipped += overflowed
        return overflowed

    def state(self) -> dict[str, float]:
        """All that it remembers, as numbers."""
        return {**self._inner.state_dict(), "skipped": self.skipped}

    def load(self, state: dict[str, float]) -> None:
        """Put back what `state` returned."""
        self._inner.load_state_dict({name: value for name, value in state.items() if name != "skipped"})
        self.skipped = int(state["skipped"])
