"""Hands the numbers of each step to trackers."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.system.hardware import peak_memory_bytes
from luthier.tracking.base import Tracker
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State


class Log(Observer):
    """Everything that is known of a step, speed and memory included."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def on_start(self, state: State, total_steps: int) -> None:
        """Forget steps that will be done again."""
        for tracker in self.trackers:
            tracker.rewind(state.step)

    def on_step(self, progress: Progress) -> bool:
        """Log."""
        values = {
            "epoch": progress.epoch,
            "loss": progress.loss,
            "learning_rate": progress.learning_rate,
            "grad_norm": progress.grad_norm,
            "units": progress.units,
            "tokens": progress.tokens,
            **progress.metrics,
            **{f"held_out_{name}": value for name, value in (progress.evaluation or {}).items()},
            "seconds": progress.seconds,
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        for tracker in self.trackers:
            tracker.log(progress.state.step, values)
        return False

    def on_notice(self, state: State, text: str) -> None:
        """Keep it beside the numbers."""
        for tracker in self.trackers:
            tracker.note(state.step, text)

    def on_end(self, state: State) -> None:
        """Close."""
        for tracker in self.trackers:
            tracker.close()
