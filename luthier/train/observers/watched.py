"""What the model says to some held-out rows, at the start and at every evaluation: `watched.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from luthier.data.conversation import Conversation
from luthier.inference.engine import Engine, Sampling
from luthier.tracking.jsonl import WATCHED, JsonlTracker
from luthier.train.observers.base import Observer, Progress
from luthier.train.state import State


class Watched(Observer):
    """Belongs on the first rank, which must hold the whole model.

    `questions` are prompts and what their rows say. Answers are the likeliest ones: no randomness is drawn. `ready` is
    entered for the weights that would be saved.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        questions: Sequence[tuple[Conversation, str]],
        ready: Callable[[], AbstractContextManager[Any]],
        *,
        longest: int,
    ) -> None:
        self.tracker, self.engine, self.questions, self.ready = JsonlTracker(folder / WATCHED), engine, questions, ready
        self.sampling = Sampling(max_new_tokens=longest)

    def on_start(self, state: State, total_steps: int) -> None:
        """What it says before it has learnt anything."""
        self.tracker.rewind(state.step or -1)
        if state.step == 0:
            self._ask(0)

    def on_step(self, progress: Progress) -> bool:
        """Ask where the held-out rows were measured."""
        if progress.evaluation is not None:
            self._ask(progress.state.step)
        return False

    def _ask(self, step: int) -> None:
        with self.ready():
            said = dict(self.engine.generate([prompt for prompt, _ in self.questions], self.sampling))
        for number, (prompt, reference) in enumerate(self.questions):
            told = {"question": prompt.question, "reference": reference, "answer": said[number]}
            self.tracker.log(step, told)
