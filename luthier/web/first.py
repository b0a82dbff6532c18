"""From rows to a model that answers, in five clicks; each is a command that other tabs and a terminal have as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.models.catalogue import entries
from luthier.tracking.run import RunFolder
from luthier.web import forms
from luthier.web.board import LOOK_SECONDS, Board, looked, suggestions
from luthier.web.guard import kept
from luthier.web.train import free_run, run_config

STEPS = ("check", "train", "compare", "chat")
"""What follows on the choice of rows."""
EXAMPLE = "luthier_qa.jsonl"
"""Questions and answers about Luthier: beside this file where it is installed, in the examples of its source."""


@dataclass(frozen=True, slots=True)
class Way:
    """How far a visit has come: its rows, its config and run, and the job of each step."""

    rows: str = ""
    run: str = ""
    jobs: Mapping[str, str] = field(default_factory=dict)

    def open(self, board: Board) -> int:
        """How many steps may be taken: those before the first that is not done, and that one."""
        found = [board.job(self.jobs.get(step)) for step in STEPS]
        done = [one is not None and one.status == "finished" for one in found]
        return (done.index(False) + 1) if self.rows else 0


def first_tab(board: Board, load: Any, select: Any) -> tuple[gr.Button, gr.BrowserState]:
    """Rows, and a button for each step, the next one lit; returns the last button, and what it starts from."""
    say = board.say
    gr.Markdown(say("first.about"))
    with gr.Row():
        example = gr.Button(say("first.example"), variant="primary", elem_id="first-example")
        dropped = gr.File(label=say("first.drop"), elem_id="first-drop", height=120)
    model = gr.Dropdown([], allow_custom_value=True, label=say("label.model.path"), elem_id="first-model")
    told, way = gr.Markdown(elem_id="first-rows"), board.kept("first", asdict(Way()))
    with gr.Row():
        buttons = [gr.Button(say(f"first.{step}"), interactive=False, elem_id=f"first-{step}") for step in STEPS]
    output, look = gr.HTML(elem_id="first-output"), gr.Timer(LOOK_SECONDS, active=False)

    def taken(file: Path) -> tuple[Any, ...]:
        new = Way(kept(board.folder, file))
        return asdict(new), told_of(new), gr.Button(variant="secondary"), *_lit(board, new)

    def told_of(way: Way) -> str:
        return say("data.taken", names=f"`{way.rows}`") if way.rows else ""

    def gone(step: str, known: dict[str, Any], model: str) -> tuple[Any, ...]:
        way = _go(board, step, Way(**known), model)
        return asdict(way), gr.Timer(active=True), *_lit(board, way)

    def seen(known: dict[str, Any]) -> tuple[Any, ...]:
        way = Way(**known)
        last = next((way.jobs[step] for step in reversed(STEPS) if step in way.jobs), "")
        return told_of(way), *looked(board, last), *_lit(board, way)

    rows_taken = [way, told, example, *buttons]
    example.click(lambda: taken(_example()), None, rows_taken)
    dropped.upload(lambda file: taken(Path(file)), dropped, rows_taken)
    for step, button in zip(STEPS[:-1], buttons, strict=False):
        button.click(lambda way, model, step=step: gone(step, way, model), [way, model], [way, look, *buttons])
    quiet: Any = {"show_progress": "hidden"}
    gr.on([look.tick, load, select], seen, way, [told, output, look, *buttons], **quiet)
    # one event says what is chosen first, for a second one would say it again to who has chosen meanwhile
    gr.on(load, lambda: gr.Dropdown(_models(board), value=forms.values(forms.FIRST)["model"]), None, model, **quiet)
    gr.on(select, lambda: gr.Dropdown(_models(board)), None, model, **quiet)
    return buttons[-1], way


def _example() -> Path:
    here = Path(str(files("luthier.web")))
    return next(file for place in (here, here.parents[1] / "examples" / "data") if (file := place / EXAMPLE).exists())


def _models(board: Board) -> list[str]:
    """Models that are here, and those that can be fetched."""
    known = (name for name, entry in entries().items() if entry.parameters)
    return list(dict.fromkeys([*suggestions(board, "model"), *known]))


def _lit(board: Board, way: Way) -> list[Any]:
    """The buttons: those of steps that may be taken, the next one of them in colour."""
    there, now = range(1, len(STEPS) + 1), way.open(board)
    return [gr.Button(interactive=n <= now, variant="primary" if n == now else "secondary") for n in there]


def _go(board: Board, step: str, way: Way, model: str) -> Way:
    """Take a step; a model that is not here yet is fetched before it is asked whether it fits."""
    if step == "compare":
        name = board.start(["compare", model, way.run], f"compare-{Path(way.run).name}")
        return replace(way, jobs={**way.jobs, step: name})
    if step == "check" or (RunFolder(board.folder / way.run).record() or {}).get("finished"):
        way = replace(way, run=free_run(board, Path(way.rows).stem))
    if step == "check" and model in entries() and not entries()[model].fetched:
        board.start(["models", "fetch", model], f"fetch-{model}", queued=True)
    text = files("luthier.web").joinpath("text", "first.yaml").read_text(encoding="utf-8")
    for key, value in (("model.path", model), ("data.train", [way.rows]), ("output.dir", way.run)):
        text = forms.changed(text, key, value)
    steps = STEPS[: STEPS.index(step)]  # what came after it is to be done again
    before = {name: job for name, job in way.jobs.items() if name in steps}
    return replace(way, jobs={**before, step: run_config(board, step, text, queued=True)})
