"""What all tabs know: the folder whose files may be used, its jobs and runs, and what they have written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.config import RunConfig, read_tree
from luthier.drive import jobs as all_jobs
from luthier.errors import LuthierError
from luthier.models.catalogue import entries
from luthier.tracking.jsonl import FILE, WATCHED, Follower, read_metrics
from luthier.web import forms, shown
from luthier.web.guard import KINDS, inside
from luthier.web.texts import Speaker

ROWS = ("source", "rows", "data", "train", "held_out")
MODELS = ("model", "models", "path", "folder", "base", "tuned", "runs")
"""Keys of configs and commands that name files of rows, and models."""
CODE = ("evaluate", "compare")
"""Commands that run files of code, and write none."""
CONFIGS = ("check", "plan", "migrate")
"""Commands that read a config."""
LOOK_SECONDS = 1.0
"""Between two looks at what a job has written."""
LOG_BYTES = 200_000
"""Of an output's end, which are shown."""
CHARTS = {"loss": ("loss", "held_out_loss"), "learning_rate": ("learning_rate",), "grad_norm": ("grad_norm",),
          "tokens_per_second": ("tokens_per_second",), "memory": ("gigabytes",)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Board:
    """The folder whose files may be used, the command line, and the language."""

    folder: Path
    root: Any
    say: Speaker

    def start(
        self, arguments: Sequence[str], about: str, *, queued: bool = False, secret: Mapping[str, str] | None = None
    ) -> str:
        """Give a command to a job; returns its name. Raises gr.Error for paths outside of the folder."""
        try:
            inside(self.folder, arguments, code=arguments[0] in CODE)
            for file in self._configs(arguments):
                inside(self.folder, forms.texts(read_tree(file)), code=True)
            return all_jobs.submit(arguments, about=about, folder=self.folder, queued=queued, secret=secret).name
        except LuthierError as error:
            raise gr.Error(str(error)) from error

    def _configs(self, arguments: Sequence[str]) -> list[Path]:
        """The files among arguments that name further ones, as a config does that somebody has dropped."""
        found = [self.folder / word for word in arguments[1:] if (self.folder / word).is_file()]
        configs = arguments[0] in CONFIGS
        return [file for file in found if configs or (arguments[0] in CODE and file.suffix in (".yaml", ".yml"))]

    def about(self, path: str, text: str) -> str:
        """The help of a key in this language, or as the code has it."""
        return self.say.known(f"help.{path}") or self.say.about(text)

    def jobs(self) -> list[all_jobs.Job]:
        """The jobs that were started in this folder, the first one first."""
        return [one for one in all_jobs.jobs() if Path(one.working_folder) == self.folder]

    def job(self, name: str | None) -> all_jobs.Job | None:
        """The job of a name; None where this folder has none."""
        return next((one for one in self.jobs() if one.name == name), None)

    def runs(self) -> list[str]:
        """The folders of runs, as paths within this one."""
        found = [file for depth in ("*", "*/*", "*/*/*") for file in self.folder.glob(f"{depth}/run.json")]
        return sorted(str(one.parent.relative_to(self.folder)) for one in found)

    def kept(self, name: str, first: Any) -> gr.BrowserState:
        """Something that a page finds again when it is loaded anew, in the browser; nothing that is secret."""
        folder = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return gr.BrowserState(first, storage_key=f"luthier-{folder}-{name}", secret=folder)


def suggestions(board: Board, key: str) -> list[str]:
    """What a key may well be: a file of rows, or a model, that is there."""
    if key in ROWS:
        every = [one for one in (board.folder / "data").rglob("*") if one.is_file() and one.suffix in KINDS]
        # of what cleaning and augmenting write, only the rows are to learn from
        found = [one for one in every if one.name == "rows.jsonl" or not (one.parent / "ledger.jsonl").exists()]
        return [str(one.relative_to(board.folder)) for one in sorted(found, key=lambda one: -one.stat().st_mtime)]
    if key in MODELS:
        fetched = [name for name, entry in entries().items() if entry.parameters and entry.fetched]
        return [*board.runs(), *fetched]
    return []


def looked(board: Board, name: str) -> tuple[str, Any]:
    """A job's output, and a timer that looks again as long as there will be more."""
    if not (one := board.job(name)):
        return "", gr.Timer(active=False)
    status, said = one.status, one.tail(LOG_BYTES)
    head = f'<p class="status {status}">{one.name}: {board.say(f"status.{status}")}</p>'
    config = trained(board, one)
    pace = _pace_of(board, one, config) if config and status == "running" else ""
    done = status == "finished" and one.arguments[0] != "train"  # whose curves are drawn as it goes
    seen = shown.written(board.folder, said) if done else ""
    return head + pace + _answers_of(board, config) + shown.page_of(said) + seen, gr.Timer(
        active=status in all_jobs.LIVE
    )


def trained(board: Board, job: all_jobs.Job) -> RunConfig | None:
    """The config of what a job trains; None where it does something else, or the config is gone."""
    with suppress(OSError, LuthierError):
        if job.arguments[0] == "train":
            return forms.parsed((board.folder / job.arguments[1]).read_text(encoding="utf-8"))
    return None


def _pace_of(board: Board, job: all_jobs.Job, config: RunConfig) -> str:
    """How far a training is, and how long it will last; nothing before the first step of its own."""
    file, began = board.folder / config.output.dir / FILE, (job.folder / "started").stat().st_mtime
    follower = followed(file)
    follower.look()
    rows = follower.recent if file.exists() and file.stat().st_mtime > began else ()
    found = shown.pace([*rows], config.train.epochs, config.train.max_steps)
    return shown.bar(found["step"], found["total"], board.say("runs.pace", **found)) if found else ""


def _answers_of(board: Board, config: RunConfig | None) -> str:
    """What a training's held-out rows were answered with as it learnt, where they are watched."""
    if config is None or not config.evaluate.watch:
        return ""
    return shown.answers(read_metrics(board.folder / config.output.dir / WATCHED), board.say)


def curves_of(board: Board, job: all_jobs.Job) -> str:
    """The curves of what a job trains."""
    if not (config := trained(board, job)):
        return ""
    titles = {board.say(f"chart.{name}"): keys for name, keys in CHARTS.items()}
    columns = metrics(board, str(config.output.dir))
    if "peak_memory_bytes" in columns:
        steps, sizes = columns["peak_memory_bytes"]
        columns["gigabytes"] = steps, [size / 1e9 for size in sizes]
    return f'<div class="curves">{shown.curves(columns, titles)}</div>'


def metrics(board: Board, run: str) -> dict[str, Any]:
    """The steps and values of a run's metrics up to now."""
    return followed(board.folder / run / FILE).look()


@lru_cache(maxsize=32)
def followed(file: Path) -> Follower:
    """The reader of a file, which reads nothing twice."""
    return Follower(file)
