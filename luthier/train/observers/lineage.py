"""Writes down which rows each step learnt."""

from __future__ import annotations

import math
from pathlib import Path

from luthier.data.lineage import STEPS, first_number
from luthier.tracking.jsonl import JsonlTracker
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State


class Lineage(Observer):
    """A line a step in `steps.jsonl`, with the numbers of its rows in the ledger, those of all ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.first = folder, JsonlTracker(folder / STEPS), 0

    def on_start(self, state: State, total_steps: int) -> None:
        """Forget steps that will be done again."""
        self.file.rewind(state.step)
        self.first = first_number(self.folder)

    def on_step(self, progress: Progress) -> bool:
        """Keep the rows, but those of a step that overflowed in fp16, from which nothing was learnt."""
        if math.isfinite(progress.grad_norm):
            rows = [row if isinstance(row, str) else self.first + row for row in progress.rows]
            dropped = {"dropped": list(progress.dropped)} if progress.dropped else {}
            self.file.log(progress.state.step, {"rows": rows, **dropped})
        return False
