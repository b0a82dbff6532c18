"""What each process holds and does, step by step, in `processes.jsonl`; asked for by `output.per_process`."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from luthier.distributed.strategy import Strategy
from luthier.system.hardware import peak_memory_bytes
from luthier.tracking.jsonl import JsonlTracker
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State

FILE = "processes.jsonl"


class Processes(Observer):
    """Belongs on every rank, since all are asked; the first one writes a list of a number for each rank.

    `peak_memory_bytes` since the process began, `seconds` of the step, and `cpu_seconds` since the last line: of all
    threads, so that on a CPU what is left of the seconds is waiting for others.
    """

    def __init__(self, folder: Path, strategy: Strategy) -> None:
        self.tracker, self.strategy = JsonlTracker(folder / FILE), strategy
        self._used = 0.0

    def on_start(self, state: State, total_steps: int) -> None:
        """Goes on behind the step of a checkpoint."""
        if self.strategy.rank == 0:
            self.tracker.rewind(state.step)
        self._used = time.process_time()

    def on_step(self, progress: Progress) -> bool:
        """Ask all."""
        used = time.process_time()
        mine = [float(peak_memory_bytes()), progress.seconds, used - self._used]
        self._used = used
        memory, seconds, cpu = zip(
            *(part.tolist() for part in self.strategy.gather(torch.tensor(mine, dtype=torch.float64))), strict=True
        )
        if self.strategy.rank == 0:
            found = {"peak_memory_bytes": [int(size) for size in memory], "seconds": seconds, "cpu_seconds": cpu}
            self.tracker.log(progress.state.step, found)
        return False
