"""The tab that trains: a few choices or every key, the text that all of them change, whether it fits, start."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.drive import jobs
from luthier.errors import LuthierError
from luthier.system.files import write_text
from luthier.web import forms
from luthier.web.board import LOOK_SECONDS, Board, looked, suggestions
from luthier.web.guard import inside, numbered
from luthier.web.pages import ONE_BY_ONE, in_rows, terminal

EASY = ("model.path", "data.train", "objective.type", "adapter.type", "train.epochs", "parallel.type", "output.dir")
"""The keys of the first page, with what is measured to be a good start."""
IN_ORDER: Any = {"concurrency_id": "text", "concurrency_limit": 1}
"""Of events that change the text, or use it: who leaves a field for a button starts what the field says."""
LATER = "async (...given) => { await new Promise(done => setTimeout(done, 400)); return given; }"
"""Sends a click behind what leaving a field has sent: two requests of one moment may arrive in any order."""


def train_tab(board: Board, anew: Sequence[Any]) -> None:
    """A form and a text that say the same; whether it fits; start, stop at a checkpoint, go on."""
    say = board.say
    # the text is the server's, where events are in order; the browser's copy of it is for when the page is loaded anew
    text, fresh, copy, job = gr.State(forms.FIRST), gr.State(0), board.kept("text", ""), board.kept("training", "")
    pages = [(say("train.easy"), "easy"), *((say(f"section.{name}"), name) for name in forms.sections())]
    page = gr.Radio(pages, value="easy", label=say("train.page"), elem_id="section")

    @gr.render(inputs=[text, page], triggers=[*anew, page.change, fresh.change], **ONE_BY_ONE)  # type: ignore[untyped-decorator]
    def form(written: str, section: str) -> None:
        found = forms.easy(EASY, written) if section == "easy" else forms.fields(section, written)
        for field, made in zip(found, in_rows(board, found), strict=True):
            event = made.change if field.kind in ("flag", "choice") else made.blur
            event(partial(_changed, field), [text, fresh, made], [text, fresh], show_progress="hidden", **IN_ORDER)

    code = gr.Code(forms.FIRST, language="yaml", label=say("train.yaml"), elem_id="yaml", buttons=["copy"])
    wrong = gr.Markdown(elem_id="problems")
    seen: Any = {"outputs": [code, wrong, copy], "show_progress": "hidden"}
    text.change(lambda written: (written, _problems(board, written), written), text, **seen)
    code.blur(_typed, [text, fresh, code], [text, fresh], show_progress="hidden", **IN_ORDER)
    with gr.Row():
        check = gr.Button(say("train.check"), elem_id="check")
        start = gr.Button(say("train.start"), variant="primary", elem_id="start")
        stop = gr.Button(say("runs.stop"), elem_id="train-stop")
        again = gr.Button(say("train.again"), elem_id="train-again")
    line = terminal(board)
    look, output = gr.Timer(LOOK_SECONDS, active=False), gr.HTML(elem_id="train-output")

    def opened(written: str, fresh: int, kept: str) -> tuple[Any, ...]:
        now = kept if kept and written == forms.FIRST else written
        return *_typed(written, fresh, forms.with_rows(now, suggestions(board, "train"))), gr.Timer(active=True)

    gr.on(anew, opened, [text, fresh, copy], [text, fresh, look], show_progress="hidden", **IN_ORDER)
    for button, verb in ((check, "check"), (start, "train")):
        button.click(partial(_run, board, verb), text, [job, line, look], js=LATER, **IN_ORDER)
    stop.click(lambda name: one.stop() if (one := board.job(name)) else None, job)
    again.click(lambda name: (go_on(board, name), gr.Timer(active=True)), job, [job, look])
    look.tick(partial(looked, board), job, [output, look], show_progress="hidden")


def _changed(field: forms.Field, text: str, fresh: int, given: Any) -> tuple[str, int]:
    """The text with what a component says now; a form is drawn anew where another kind has other keys."""
    try:
        return forms.changed(text, field.path, field.said(given)), fresh + field.path.endswith(".type")
    except LuthierError as error:
        raise gr.Error(str(error)) from error


def _typed(text: str, fresh: int, given: str) -> tuple[str, int]:
    return given, fresh + (given != text)


def _problems(board: Board, text: str) -> str:
    found = forms.problems(text)
    return "\n".join(f"- {one}" for one in found) if found else board.say("train.valid")


def _run(board: Board, verb: str, text: str) -> tuple[str, Any, Any]:
    """A job of a config, and how it is started in a terminal."""
    name = run_config(board, verb, text, queued=verb == "train")
    return name, terminal(board, shlex.join(["luthier", *jobs.job(name).arguments])), gr.Timer(active=True)


def run_config(board: Board, verb: str, text: str, *, queued: bool) -> str:
    """Write a config and give it to a job; returns the job's name. Raises gr.Error for what cannot be run."""
    if wrong := forms.problems(text):
        raise gr.Error("; ".join(wrong))
    folder = str(forms.parsed(text).output.dir)
    file = _file_for(board, Path(folder).name, text)
    try:
        inside(board.folder, [folder, *forms.paths(text)], code=True)
        write_text(board.folder / file, text)
    except LuthierError as error:
        raise gr.Error(str(error)) from error
    return board.start([verb, file], f"{verb}-{Path(file).stem}", queued=queued)


def _file_for(board: Board, name: str, text: str) -> str:
    """Where a config is written: what was written by hand, or trained with, stays as it is."""
    given: dict[str, set[str]] = {"check": set(), "train": set()}
    for one in board.jobs():
        given.get(one.arguments[0], set()).add(one.arguments[-1])
    for file in numbered(f"configs/{name}.yaml"):
        place = board.folder / file
        ours = file in given["check"] and file not in given["train"]
        if not place.exists() or ours or place.read_text(encoding="utf-8") == text:
            break
    return file


def free_run(board: Board, name: str) -> str:
    """A folder for a run, which no other run has."""
    return next(file for file in numbered(f"runs/{name}") if not (board.folder / file).exists())


def go_on(board: Board, name: str) -> str:
    """Give a job's command again; a training that is done is done again in a folder of its own."""
    if not (one := board.job(name)):
        raise gr.Error(board.say("runs.none"))
    if one.status == "finished" and one.arguments[0] == "train":
        text = (board.folder / one.arguments[1]).read_text(encoding="utf-8")
        run = free_run(board, Path(forms.parsed(text).output.dir).name)
        return run_config(board, "train", forms.changed(text, "output.dir", run), queued=one.queued)
    return board.start(one.arguments, name.partition("-")[2], queued=one.queued)
