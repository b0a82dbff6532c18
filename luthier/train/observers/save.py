"""Saves checkpoints: on schedule, at the best evaluation, and at the end."""

from __future__ import annotations

from luthier.train.checkpoint import Checkpoints, Trained
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State


class Save(Observer):
    """Runs on every rank, since ranks write together."""

    def __init__(self, checkpoints: Checkpoints, trained: Trained, *, every: int | None) -> None:
        self.checkpoints, self.trained, self.every = checkpoints, trained, every

    def on_step(self, progress: Progress) -> bool:
        """Save when due, or when this step is the best so far."""
        state = progress.state
        due = self.every is not None and state.step % self.every == 0
        best = progress.evaluation is not None and state.best_step == state.step
        if due or best or progress.last:
            self.checkpoints.save(state, self.trained)
        return False

    def on_end(self, state: State) -> None:
        """Save what a stopped run has reached, and wait for it."""
        if state.step > 0:
            self.checkpoints.save(state, self.trained)
        self.checkpoints.settle(self.trained.strategy)
