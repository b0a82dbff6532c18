"""Forms of commands: what they can be told, the line that does the same in a terminal, and what they say."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from luthier.errors import LuthierError
from luthier.system.variables import KEY
from luthier.web import commands, forms
from luthier.web.board import LOOK_SECONDS, Board, looked, suggestions
from luthier.web.guard import kept, numbered

NARROW = 280
"""Pixels below which fields stand below each other."""
ONE_BY_ONE: Any = {"concurrency_id": "form", "concurrency_limit": 1}
"""Of forms that are drawn: gradio draws no two of a page at once without mixing them up."""
USUAL = {
    "data stats": {"image": "data/counted.png"}, "data clean": {"output": "data/clean"},
    "data augment": {"output": "data/more"}, "compare": {"output": "compared"},
    "models show": {"svg": "lineage.svg"},
}  # fmt: skip
"""What a form of a command begins with, where that is not the command's own default: what it writes is shown."""


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
    if field.kind == "number" and field.default is not None:  # else an empty one would say 0
        return gr.Number(value, minimum=field.low, maximum=field.high, **common)
    plain = isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    if known and plain:
        several = field.kind != "text"
        newest = known[0] if field.needed and not several else None
        held = newest if value is None else [value] if several and isinstance(value, str) else value
        return gr.Dropdown(known, value=held, multiselect=several, allow_custom_value=True, **common)
    if field.kind == "lines":
        return gr.Textbox("\n".join(map(str, field.value or [])), lines=2, placeholder=default, **common)
    written = field.value if isinstance(field.value, str | None) else forms.spelled(field.value)
    # "" and not None: a field that stands where another one stood would keep what that one held
    return gr.Textbox(written or "", placeholder=default, **common)


def command_tab(board: Board, about: str, words: Sequence[str], anew: Sequence[Any]) -> tuple[Any, gr.Timer]:
    """A form for each of some commands, the line that does the same in a terminal, and what it says.

    `anew` are events after which other files or models may be there. Returns the job that is shown, and its timer.
    """
    say = board.say
    gr.Markdown(say(f"{about}.about"))
    named = [(say(f"command.{word.replace(' ', '_')}"), word) for word in words]
    chosen = gr.Radio(named, value=words[0], label=say("common.what"))
    job, look = board.kept(about, ""), gr.Timer(LOOK_SECONDS, active=False)
    secret = gr.Textbox(
        visible=False, interactive=False, label=say("ship.key"), buttons=["copy"], elem_id=f"{about}-key"
    )

    @gr.render(inputs=chosen, triggers=[*anew, chosen.change], **ONE_BY_ONE)  # type: ignore[untyped-decorator]
    def form(word: str) -> None:
        usual: Mapping[str, Any] = USUAL.get(word, {})
        if "output" in usual:  # a folder that is not there yet
            free = (name for name in numbered(usual["output"]) if not (board.folder / name).exists())
            usual = {**usual, "output": next(free)}
        fields = [replace(one, value=usual.get(one.path)) for one in commands.fields(board.root, word)]
        made = in_rows(board, fields)

        def line(*values: Any) -> list[str]:
            try:
                said = {field.path: field.said(value) for field, value in zip(fields, values, strict=True)}
            except LuthierError as error:
                raise gr.Error(str(error)) from error
            return commands.line(board.root, word, said)

        def spoken(*values: Any) -> str:
            return shlex.join(["luthier", *line(*values)])

        first = spoken(*(one.value for one in made))
        same = terminal(board, first)
        for one in made:
            one.change(spoken, made, same, show_progress="hidden")
        run = gr.Button(say("common.run"), variant="primary", elem_id=f"run-{about}")

        def started(*values: Any) -> tuple[Any, ...]:
            key = f"lk-{secrets.token_urlsafe(32)}" if word == "deploy" else ""
            name = board.start(line(*values), word, secret={KEY: key} if key else None)
            return name, gr.Timer(active=True), gr.Textbox(key, visible=bool(key))

        run.click(started, made, [job, look, secret])

    stop = gr.Button(say("common.stop"), elem_id=f"stop-{about}")
    stop.click(lambda name: one.stop() if (one := board.job(name)) else None, job)
    output = gr.HTML(elem_id=f"{about}-output")
    gr.on(anew, lambda: gr.Timer(active=True), None, look, show_progress="hidden")
    look.tick(partial(looked, board), job, [output, look], show_progress="hidden")
    return job, look


def terminal(board: Board, words: str = "") -> gr.Code:
    """The line that does the same in a terminal, once there is one: an empty field is a box with nothing in it."""
    looks: dict[str, Any] = {"lines": 1, "show_line_numbers": False, "wrap_lines": True, "buttons": ["copy"]}
    label = board.say("common.same_line")
    return gr.Code(words, language="shell", interactive=False, label=label, visible=bool(words), **looks)


def in_rows(board: Board, fields: Sequence[forms.Field]) -> list[Any]:
    """Components of fields, two beside each other; on a narrow screen they stand below each other."""
    made = []
    for start in range(0, len(fields), 2):
        with gr.Row():
            made += [component(board, field) for field in fields[start : start + 2]]
    return made


def data_tab(board: Board, anew: Sequence[Any]) -> None:
    """Drop files; look at them, clean them, make more of them."""
    dropped = gr.File(label=board.say("data.drop"), file_count="multiple", elem_id="drop")
    told = gr.Markdown(elem_id="dropped")

    words = ["data inspect", "data show", "data stats", "data clean", "data augment", "data where"]
    job, look = command_tab(board, "data", words, [*anew, told.change])

    def take(files: Sequence[str]) -> tuple[str, str, Any]:
        names = [kept(board.folder, Path(file)) for file in files]
        name = board.start(["data", "inspect", "--", names[-1]], "data inspect")
        return board.say("data.taken", names=", ".join(f"`{one}`" for one in names)), name, gr.Timer(active=True)

    dropped.upload(take, dropped, [told, job, look])
