"""Rewards: what an answer is worth. Each is a part with `open`, which gives a function of tasks and answers.

To add one: a class here, one line under `reward` in `plugins.yaml` (or an entry point `luthier.reward`).
"""

from __future__ import annotations

import re
import runpy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from luthier.config import ModelConfig
from luthier.data.conversation import Conversation, Message, Origin, Task
from luthier.errors import UserError
from luthier.plugins import Part

if TYPE_CHECKING:
    from luthier.models.load import ModelLoaderLike

Score = Callable[[Sequence[Task], Sequence[str]], list[float]]
"""From tasks and an answer to each, to what the answers are worth."""


class Reward(Part):
    """Base of every reward."""

    weight: float = 1.0
    """What this reward counts beside the others; negative for a penalty."""

    @abstractmethod
    def open(self, models: ModelLoaderLike) -> Score:
        """Get ready to judge; raises UserError for what cannot be used."""


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Expression = Annotated[str, AfterValidator(_compiles)]


class ExactMatch(Reward):
    """1 for the row's right answer, after white space at both ends is removed."""

    type: Literal["exact_match"] = "exact_match"
    extract: Expression | None = None
    r"""A regular expression whose last match (its first group, if any) is the answer, for example `answer: (\d+)`."""

    def open(self, models: ModelLoaderLike) -> Score:
        """Compares strings."""

        def one(task: Task, answer: str) -> float:
            found = re.findall(self.extract, answer) if self.extract else [answer]
            last = found[-1] if found else None
            said = last[0] if isinstance(last, tuple) else last
            return float(said is not None and task.answer is not None and said.strip() == task.answer.strip())

        return lambda tasks, answers: [one(task, answer) for task, answer in zip(tasks, answers, strict=True)]


class Pattern(Reward):
    """1 for an answer in which a regular expression is found."""

    type: Literal["regex"] = "regex"
    pattern: Expression
    """The expression; `^` and `$` are the ends of the answer, `.` is any character."""

    def open(self, models: ModelLoaderLike) -> Score:
        """Compiles once."""
        expression = re.compile(self.pattern, re.DOTALL)
        return lambda tasks, answers: [float(expression.search(answer) is not None) for answer in answers]


class PythonFile(Reward):
    """What a function of a file says: `def reward(prompt, completion, answer, row) -> float`. The file's code runs."""

    type: Literal["python"] = "python"
    path: str
    """The file."""
    function: str = "reward"
    """The function in it."""

    def open(self, models: ModelLoaderLike) -> Score:
        """Run the file once."""
        file = Path(self.path).expanduser()
        if file.suffix != ".py" or not file.is_file():
            raise UserError(f"objective.rewards: {self.path}: no such .py file (looked at {file.absolute()})")
        function = runpy.run_path(str(file)).get(self.function)
        if not callable(function):
            raise UserError(f"objective.rewards: {self.path} has no function {self.function!r}")

        def one(task: Task, answer: str) -> float:
            found = function(prompt=task.asked.question, completion=answer, answer=task.answer, row=dict(task.fields))
            if isinstance(found, bool | int | float):
                return float(found)
            raise UserError(f"objective.rewards: {self.path}: {self.function} returned {found!r}, not a number")

        return lambda tasks, answers: [one(task, answer) for task, answer in zip(tasks, answers, strict=True)]


class RewardModel(Reward):
    """The score of a reward model, such as the output of a run with `objective: reward`."""

    type: Literal["model"] = "model"
    path: str
    """The model."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Answers that are scored at once."""

    def open(self, models: ModelLoaderLike) -> Score:
        """Load it; raises ModelError."""
        import torch

        from luthier.data.pack import Example, Layout, lay_out, plan
        from luthier.distributed.strategy import pick_device
        from luthier.models.output import Forward

        config = ModelConfig(path=self.path)
        renderer = models.renderer(config)
        model: Any = models.load(config, scores=True).to(pick_device()).eval()
        forward, layout = Forward(model), Layout(packing=False, tokens=2**31, rows=self.batch_size)

        def score(tasks: Sequence[Task], answers: Sequence[str]) -> list[float]:
            rows = []
            for task, answer in zip(tasks, answers, strict=True):
                said = Message(role="assistant", content=answer)
                tokens = renderer.scored(Conversation((*task.asked.messages, said), task.asked.tools))
                rows.append(Example(Origin("answers", 0), task.content_id, (tokens,), task))
            found = [0.0] * len(rows)
            for group in plan([layout.size(row) for row in rows], layout, ranks=1)[0]:
                batch = lay_out([rows[i] for i in group], layout).to(model.device)
                with torch.no_grad():
                    values = forward(model, batch).values(batch.targets)
                for i, value in zip(group, values.tolist(), strict=True):
                    found[i] = value
            return found

        return score
