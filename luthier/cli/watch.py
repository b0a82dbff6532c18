"""Shows a run on the terminal. Imports torch through its base classes, so verbs import it late."""

from __future__ import annotations

import time

from rich.progress import TaskID

from luthier.cli import show
from luthier.factory import Stages
from luthier.train.check import Ready
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State


class Watcher(Stages, Observer):
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.bar = show.progress()
        self.started = time.monotonic()
        self.task: TaskID | None = None
        self.tokens = self.seconds = 0.0

    def stage(self, text: str) -> None:
        """Print it with the time since the start."""
        show.console.print(f"[bold cyan]{time.monotonic() - self.started:6.1f} s[/]  {text}")

    def report(self, ready: Ready) -> None:
        """Print what was read, what the check found, and two rows."""
        show.readings(ready.data)
        show.findings(ready.report)
        for sample in ready.report.samples:
            show.rendered(sample)

    def on_start(self, state: State, total_steps: int) -> None:
        """Open the bar where the run goes on."""
        self.task = self.bar.add_task("training", total=total_steps, completed=state.step, note="")

    def on_step(self, progress: Progress) -> bool:
        """Move the bar; print evaluations, and every tenth where there is no terminal."""
        self.tokens += progress.tokens
        self.seconds += progress.seconds
        reward = f"  reward {progress.metrics['reward']:.3f}" if "reward" in progress.metrics else ""
        note = f"loss {progress.loss:.3f}{reward}  {self.tokens / self.seconds:.0f} tokens/s"
        if self.task is not None:
            self.bar.update(self.task, completed=progress.state.step, note=note)
        tenth = max(progress.total_steps // 10, 1)
        if progress.evaluation or (not show.console.is_interactive and progress.state.step % tenth == 0):
            held = f"  held-out loss {progress.evaluation['loss']:.3f}" if progress.evaluation else ""
            show.console.print(f"          step {progress.state.step}/{progress.total_steps}  {note}{held}")
        return False

    def on_notice(self, state: State, text: str) -> None:
        """Print it above the bar."""
        show.console.print(f"[yellow]warning: {text}[/]")

    def on_end(self, state: State) -> None:
        """Close the bar, so that what is printed next stands below it."""
        self.bar.stop()
