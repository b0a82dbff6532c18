"""Tasks of lm-evaluation-harness, by its own code, on a model of ours: those it has, or YAML files of one's own."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.render import Renderer
from luthier.errors import DataError, UserError
from luthier.supplies import library


def harness(
    model: Any, renderer: Renderer, tasks: Sequence[str], *, limit: int | None = None, chat: bool = False
) -> dict[str, dict[str, float]]:
    """Each task's metrics as the harness names them, with their standard errors.

    `chat` asks through the model's chat template, which the harness does not do by itself.

    Raises:
        MissingExtra: lm-eval is not installed.
        UserError: there is no such task; what the harness says of it.
    """
    lm_eval = library("lm_eval", "--harness", "harness", called="lm-eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = {task: Path(task) for task in tasks if task.endswith((".yaml", ".yml"))}
    names = [_name(files[task]) if task in files else task for task in tasks]
    model.eval()
    with contextlib.redirect_stdout(io.StringIO()):
        manager = TaskManager(include_path=[str(folder) for folder in {file.parent for file in files.values()}] or None)
        if unknown := [name for name in names if name not in manager.all_tasks]:
            raise UserError(f"--harness: no task {unknown[0]!r}; write one that lm-eval ls tasks shows, or FILE.yaml")
        wrapped = HFLM(pretrained=model, tokenizer=renderer.tokenizer, batch_size=8)
        try:
            told = lm_eval.simple_evaluate(
                wrapped, tasks=names, task_manager=manager, limit=limit, apply_chat_template=chat, log_samples=False
            )
        except (ValueError, KeyError, OSError, ConnectionError) as error:
            raise UserError(f"--harness {', '.join(tasks)}: lm-eval says: {error}") from None
    return {
        name: {key.removesuffix(",none"): value for key, value in found.items() if isinstance(value, int | float)}
        for name, found in told["results"].items()
    }


def _name(file: Path) -> str:
    """The task that a file describes."""
    from luthier.config import read_tree

    if "task" not in (told := read_tree(file)):
        raise DataError(f"{file}: says no `task`, the name of the task")
    return str(told["task"])
