"""The tab of runs: every job and every run of the folder, how they go, and what sets them apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from luthier.tracking.run import RunFolder, differences
from luthier.web import shown
from luthier.web.board import LOOK_SECONDS, Board, curves_of, looked, metrics
from luthier.web.guard import inside
from luthier.web.train import go_on


def runs_tab(board: Board, tabs: gr.Tabs, tab: gr.Tab) -> None:
    """Every job: its output and curves; stop it at a checkpoint, go on, do it again. Runs beside each other."""
    say = board.say
    # jobs come while the page is open: a list of what may be chosen would refuse those that it does not know yet
    chosen = gr.Dropdown([], allow_custom_value=True, label=say("runs.job"), elem_id="job")
    with gr.Row():
        stop = gr.Button(say("runs.stop"), elem_id="stop")
        again = gr.Button(say("runs.resume"), elem_id="resume")
    output, look = gr.HTML(elem_id="run-output"), gr.Timer(LOOK_SECONDS, active=False)
    several = gr.CheckboxGroup([], label=say("runs.compare"), visible=False, elem_id="several")
    compared = gr.HTML(elem_id="compared")

    def listed(now: str | None) -> Any:
        every = board.jobs()
        names = [one.name for one in reversed(every)]
        busy = next((one.name for one in every if one.status == "running"), None)
        # what is chosen is not said again: a visitor may have chosen something else meanwhile
        return gr.Dropdown(names) if now in names else gr.Dropdown(names, value=busy or next(iter(names), None))

    def written(name: str | None) -> str:
        one = board.job(name)
        return looked(board, one.name)[0] + curves_of(board, one) if one else say("runs.none")

    def seen(event: gr.SelectData) -> Any:
        return gr.Timer(active=event.value == say("tab.runs"))

    tabs.select(seen, None, look, show_progress="hidden")
    gr.on([tab.select, look.tick], listed, chosen, chosen, show_progress="hidden")
    gr.on([look.tick, chosen.change], written, chosen, output, show_progress="hidden")
    stop.click(lambda name: one.stop() if (one := board.job(name)) else None, chosen)
    again.click(lambda name: gr.Dropdown(value=go_on(board, name)), chosen, chosen)
    tab.select(lambda: gr.CheckboxGroup(board.runs(), visible=bool(board.runs())), None, several)
    several.change(partial(_compared, board), several, compared)


def _compared(board: Board, names: Sequence[str]) -> str:
    """The losses of runs in one picture, and in what their configs differ."""
    inside(board.folder, names)
    columns = {name: metrics(board, name) for name in names}
    losses = {name: found["loss"] for name, found in columns.items() if "loss" in found}
    records = [RunFolder(board.folder / name).record() or {"config": {}} for name in names]
    apart = [f"{name}: {line}" for name, record in zip(names[1:], records[1:], strict=True)
             for line in differences(records[0]["config"], record["config"])]  # fmt: skip
    return shown.curve(board.say("chart.loss"), losses) + shown.page_of("\n".join(apart))
