"""The tabs of the board. Each is a form of a config or of commands, and what the jobs it starts have written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.config import RunConfig
from luthier.drive import jobs
from luthier.errors import LuthierError
from luthier.models.catalogue import entries
from luthier.system.files import write_text
from luthier.tracking.jsonl import FILE, read_metrics
from luthier.tracking.run import RunFolder, differences
from luthier.web import commands, forms, shown
from luthier.web.guard import KINDS, inside, kept
from luthier.web.texts import Speaker

EASY = ("model.path", "data.train", "objective.type", "adapter.type", "train.epochs", "output.dir")
"""The keys of the first page, with what is measured to be a good start."""
ROWS = ("source", "rows", "data", "train", "held_out")
MODELS = ("model", "models", "path", "folder", "base", "tuned", "runs")
"""Keys of configs and commands that name files of rows, and models."""
NARROW = 280
"""Pixels below which fields stand below each other."""
IN_ORDER: Any = {"concurrency_id": "text", "concurrency_limit": 1}
"""Of events that change the text, or use it: who leaves a field for a button starts what the field says."""
LOOK_SECONDS = 1.0
"""Between two looks at what a job has written."""
CHARTS = {"loss": ("loss", "held_out_loss"), "learning_rate": ("learning_rate",), "grad_norm": ("grad_norm",),
          "tokens_per_second": ("tokens_per_second",)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Board:
    """What all tabs know: the folder whose files may be used, the command line, and the language."""

    folder: Path
    root: Any
    say: Speaker

    def start(self, arguments: Sequence[str], about: str, *, queued: bool = False) -> str:
        """Give a command to a job; returns its name. Raises gr.Error for paths outside of the folder."""
        try:
            inside(self.folder, arguments)
            return jobs.submit(arguments, about=about, folder=self.folder, queued=queued).name
        except LuthierError as error:
            raise gr.Error(str(error)) from error

    def about(self, path: str, text: str) -> str:
        """The help of a key in this language, or as the code has it."""
        return self.say.known(f"help.{path}") or self.say.about(text)


def component(board: Board, field: forms.Field) -> Any:
    """What a field is shown as, with the default where nothing is said."""
    key, default = field.path.rpartition(".")[2], forms.spelled(field.default)
    value = field.default if field.value is None else field.value
    about = {"label": board.say.known(f"label.{field.path}") or key, "info": board.about(field.path, field.about)}
    common: dict[str, Any] = {**about, "interactive": True, "elem_id": f"field-{field.path.replace('.', '-')}"}
    common["min_width"] = NARROW
    known = suggestions(board, key)
    if field.kind == "flag":
        return gr.Checkbox(bool(value), **common)
    if field.kind == "choice":
        return gr.Dropdown(field.options, value=value, **common)
    if field.kind == "number":
        return gr.Number(value, minimum=field.low, maximum=field.high, **common)
    plain = not isinstance(value, dict) and not any(isinstance(one, dict) for one in value or ())
    if known and plain:
        several = field.kind != "text"
        newest = known[0] if field.needed and not several else None
        held = newest if value is None else [value] if several and isinstance(value, str) else value
        return gr.Dropdown(known, value=held, multiselect=several, allow_custom_value=True, **common)
    if field.kind == "lines":
        return gr.Textbox("\n".join(map(str, field.value or [])), lines=2, placeholder=default, **common)
    written = field.value if isinstance(field.value, str | None) else forms.spelled(field.value)
    return gr.Textbox(written, placeholder=default, **common)


def suggestions(board: Board, key: str) -> list[str]:
    """What a key may well be: a file of rows, or a model, that is there."""
    if key in ROWS:
        found = [one for one in (board.folder / "data").rglob("*") if one.is_file() and one.suffix in KINDS]
        return [str(one.relative_to(board.folder)) for one in sorted(found, key=lambda one: -one.stat().st_mtime)]
    if key in MODELS:
        fetched = [name for name, entry in entries().items() if entry.parameters and entry.fetched]
        return [*_runs(board), *fetched]
    return []


# ---- commands -------------------------------------------------------------------------------------------------------


def command_tab(board: Board, about: str, words: Sequence[str], anew: Sequence[Any]) -> None:
    """A form for each of some commands, the line that does the same in a terminal, and what it says.

    `anew` are events after which other files or models may be there.
    """
    say = board.say
    gr.Markdown(say(f"{about}.about"))
    named = [(say(f"command.{word.replace(' ', '_')}"), word) for word in words]
    chosen = gr.Radio(named, value=words[0], label=say("common.what"))
    job, look = gr.State(""), gr.Timer(LOOK_SECONDS, active=False)

    @gr.render(inputs=chosen, triggers=[*anew, chosen.change])  # type: ignore[untyped-decorator]
    def form(word: str) -> None:
        fields = commands.fields(board.root, word)
        made = _in_rows(board, fields)

        def line(*values: Any) -> list[str]:
            said = {field.path: field.said(value) for field, value in zip(fields, values, strict=True)}
            return commands.line(board.root, word, said)

        def spoken(*values: Any) -> str:
            return shlex.join(["luthier", *line(*values)])

        first = spoken(*(one.value for one in made))
        same = _terminal(board, first)
        for one in made:
            one.change(spoken, made, same, show_progress="hidden")
        run = gr.Button(say("common.run"), variant="primary", elem_id=f"run-{about}")
        run.click(lambda *values: (board.start(line(*values), word), gr.Timer(active=True)), made, [job, look])

    output = gr.HTML(elem_id=f"{about}-output")
    look.tick(partial(looked, board), job, [output, look], show_progress="hidden")


def _terminal(board: Board, words: str = "") -> gr.Code:
    """The line that does the same in a terminal, once there is one: an empty field is a box with nothing in it."""
    looks: dict[str, Any] = {"lines": 1, "show_line_numbers": False, "wrap_lines": True, "buttons": ["copy"]}
    label = board.say("common.same_line")
    return gr.Code(words, language="shell", interactive=False, label=label, visible=bool(words), **looks)


def _in_rows(board: Board, fields: Sequence[forms.Field]) -> list[Any]:
    """Components of fields, two beside each other; on a narrow screen they stand below each other."""
    made = []
    for start in range(0, len(fields), 2):
        with gr.Row():
            made += [component(board, field) for field in fields[start : start + 2]]
    return made


def looked(board: Board, name: str) -> tuple[str, Any]:
    """A job's output, and a timer that looks again as long as there will be more."""
    if not name:
        return "", gr.Timer(active=False)
    one = jobs.job(name)
    status = one.status
    head = f'<p class="status {status}">{one.name}: {board.say(f"status.{status}")}</p>'
    pace = _pace_of(board, one) if status == "running" else ""
    return head + pace + shown.page_of(one.log), gr.Timer(active=status in jobs.LIVE)


def _trained(board: Board, job: jobs.Job) -> RunConfig | None:
    """The config of what a job trains; None where it does something else, or the config is gone."""
    with suppress(OSError, LuthierError):
        if job.arguments[0] == "train":
            return forms.parsed((board.folder / job.arguments[1]).read_text(encoding="utf-8"))
    return None


def _pace_of(board: Board, job: jobs.Job) -> str:
    """How far a training is, and how long it will last; nothing before the first step of its own."""
    if not (config := _trained(board, job)):
        return ""
    file, began = board.folder / config.output.dir / FILE, (job.folder / "started").stat().st_mtime
    rows = read_metrics(file) if file.exists() and file.stat().st_mtime > began else []
    found = shown.pace(rows, config.train.epochs, config.train.max_steps)
    return shown.bar(found["step"], found["total"], board.say("runs.pace", **found)) if found else ""


def _curves_of(board: Board, job: jobs.Job) -> str:
    """The curves of what a job trains."""
    if not (config := _trained(board, job)):
        return ""
    titles = {board.say(f"chart.{name}"): keys for name, keys in CHARTS.items()}
    return f'<div class="curves">{shown.curves(read_metrics(board.folder / config.output.dir / FILE), titles)}</div>'


# ---- data -----------------------------------------------------------------------------------------------------------


def data_tab(board: Board, anew: Sequence[Any]) -> None:
    """Drop files; look at them, clean them, make more of them."""
    dropped = gr.File(label=board.say("data.drop"), file_count="multiple", elem_id="drop")
    told = gr.Markdown(elem_id="dropped")

    def take(files: Sequence[str] | None) -> str:
        names = [kept(board.folder, Path(file)) for file in files or []]
        return board.say("data.taken", names=", ".join(f"`{name}`" for name in names)) if names else ""

    dropped.upload(take, dropped, told)
    words = ["data inspect", "data show", "data stats", "data clean", "data augment", "data where"]
    command_tab(board, "data", words, [*anew, told.change])


# ---- training -------------------------------------------------------------------------------------------------------


def train_tab(board: Board, anew: Sequence[Any]) -> None:
    """Six choices, or every key; the text that all of them change; whether it fits; start."""
    say = board.say
    text, fresh = gr.State(forms.FIRST), gr.State(0)
    pages = [(say("train.easy"), "easy"), *((say(f"section.{name}"), name) for name in forms.sections())]
    page = gr.Radio(pages, value="easy", label=say("train.page"), elem_id="section")

    @gr.render(inputs=[text, page], triggers=[*anew, page.change, fresh.change])  # type: ignore[untyped-decorator]
    def form(written: str, section: str) -> None:
        found = forms.easy(EASY, written) if section == "easy" else forms.fields(section, written)
        for field, made in zip(found, _in_rows(board, found), strict=True):
            event = made.change if field.kind in ("flag", "choice") else made.blur
            event(partial(_changed, field), [text, fresh, made], [text, fresh], show_progress="hidden", **IN_ORDER)

    def opened(written: str, fresh: int) -> tuple[str, int]:
        return _typed(written, fresh, forms.with_rows(written, suggestions(board, "train")))

    gr.on(anew, opened, [text, fresh], [text, fresh], show_progress="hidden", **IN_ORDER)
    code = gr.Code(forms.FIRST, language="yaml", label=say("train.yaml"), elem_id="yaml", buttons=["copy"])
    wrong = gr.Markdown(elem_id="problems")
    text.change(lambda written: (written, _problems(board, written)), text, [code, wrong], show_progress="hidden")
    code.blur(_typed, [text, fresh, code], [text, fresh], show_progress="hidden", **IN_ORDER)
    with gr.Row():
        check = gr.Button(say("train.check"), elem_id="check")
        start = gr.Button(say("train.start"), variant="primary", elem_id="start")
    line = _terminal(board)
    job, look, output = gr.State(""), gr.Timer(LOOK_SECONDS, active=False), gr.HTML(elem_id="train-output")
    check.click(partial(_run, board, "check"), text, [job, line, look], **IN_ORDER)
    start.click(partial(_run, board, "train"), text, [job, line, look], **IN_ORDER)
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
    return name, _terminal(board, shlex.join(["luthier", *jobs.job(name).arguments])), gr.Timer(active=True)


def run_config(board: Board, verb: str, text: str, *, queued: bool) -> str:
    """Write a config and give it to a job; returns the job's name. Raises gr.Error for what cannot be run."""
    if wrong := forms.problems(text):
        raise gr.Error("; ".join(wrong))
    folder = str(forms.parsed(text).output.dir)
    file = Path("configs") / f"{Path(folder).name}.yaml"
    try:
        inside(board.folder, [folder, *forms.paths(text)])
        write_text(board.folder / file, text)
    except LuthierError as error:
        raise gr.Error(str(error)) from error
    return board.start([verb, str(file)], f"{verb}-{file.stem}", queued=queued)


# ---- runs -----------------------------------------------------------------------------------------------------------


def runs_tab(board: Board, tabs: gr.Tabs, tab: gr.Tab) -> None:
    """Every job and every run: how it goes, its curves; stop it at a checkpoint, go on, do it again."""
    say = board.say
    # jobs come while the page is open: a list of what may be chosen would refuse those that it does not know yet
    chosen = gr.Dropdown([], allow_custom_value=True, label=say("runs.job"), elem_id="job")
    with gr.Row():
        stop = gr.Button(say("runs.stop"), elem_id="stop")
        again = gr.Button(say("runs.resume"), elem_id="resume")
    output, look = gr.HTML(elem_id="run-output"), gr.Timer(LOOK_SECONDS, active=False)
    shown_runs = gr.CheckboxGroup([], label=say("runs.compare"), visible=False)
    compared = gr.HTML()

    def listed(now: str | None) -> Any:
        names = [one.name for one in reversed(jobs.jobs())]
        busy = next((one.name for one in jobs.jobs() if one.status == "running"), None)
        # what is chosen is not said again: a visitor may have chosen something else meanwhile
        return gr.Dropdown(names) if now in names else gr.Dropdown(names, value=busy or next(iter(names), None))

    def written(name: str | None) -> str:
        one = next((one for one in jobs.jobs() if one.name == name), None)
        return looked(board, one.name)[0] + _curves_of(board, one) if one else say("runs.none")

    def resumed(name: str) -> Any:
        one = jobs.job(name)
        return gr.Dropdown(value=board.start(one.arguments, name.partition("-")[2], queued=one.queued))

    def seen(event: gr.SelectData) -> Any:
        return gr.Timer(active=event.value == say("tab.runs"))

    tabs.select(seen, None, look, show_progress="hidden")
    gr.on([tab.select, look.tick], listed, chosen, chosen, show_progress="hidden")
    gr.on([look.tick, chosen.change], written, chosen, output, show_progress="hidden")
    stop.click(lambda name: jobs.job(name).stop(), chosen)
    again.click(resumed, chosen, chosen)
    tab.select(lambda: gr.CheckboxGroup(_runs(board), visible=bool(_runs(board))), None, shown_runs)
    shown_runs.change(lambda names: _compared(board, names), shown_runs, compared)


def _runs(board: Board) -> list[str]:
    return sorted(str(one.parent.relative_to(board.folder)) for one in board.folder.glob("*/*/run.json"))


def _compared(board: Board, names: Sequence[str]) -> str:
    """The losses of runs in one picture, and in what their configs differ."""
    inside(board.folder, names)
    losses = {
        name: [(row["step"], row["loss"]) for row in read_metrics(board.folder / name / FILE) if "loss" in row]
        for name in names
    }
    records = [RunFolder(board.folder / name).record() or {"config": {}} for name in names]
    apart = [f"{name}: {line}" for name, record in zip(names[1:], records[1:], strict=True)
             for line in differences(records[0]["config"], record["config"])]  # fmt: skip
    return shown.curve(board.say("chart.loss"), losses) + shown.page_of("\n".join(apart))
