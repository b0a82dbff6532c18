"""`luthier runs`: every finished run of this machine, and what makes them different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from luthier.registry.index import Registry, place_of

app = typer.Typer(help="Finished runs, which are recorded by themselves.", no_args_is_help=True)
RUNS = typer.Argument(help="Output folders, ids of `luthier runs list`, or versions.", show_default=False)


def folder_of(text: str) -> Path:
    """The folder of a run that is named by it, by an id, or by a version of the registry.

    Raises:
        ModelError: there is none.
    """
    place = place_of(text)
    return place if place.is_dir() else Path(Registry().run(text).folder)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
) -> None:
    """Finished runs, the newest first."""
    from luthier.cli.show import number, table

    rows = []
    for run in Registry().runs(limit):
        loss = number(run.metrics["loss"]) if "loss" in run.metrics else ""
        what = f"{run.config['objective']['type']}, {run.config['adapter']['type']} on {run.config['model']['path']}"
        gone = "" if Path(run.folder).is_dir() else " (gone)"
        rows.append((run.id[:8], run.ended[:19], what, loss, f"{run.folder}{gone}"))
    table("", ("run", "ended", "what", "loss", "folder"), rows)


@app.command()
def show(run: Annotated[str, RUNS]) -> None:
    """What a run recorded: files with hashes, git, machine, times, metrics."""
    from luthier.cli import show
    from luthier.registry.origin import read_json
    from luthier.tracking.run import INPUTS, RUN, flat

    folder = folder_of(run)
    record = read_json(folder / RUN)
    told = {key: record.get(key, "") for key in ("id", "started", "ended", "changes")}
    told |= flat(read_json(folder / INPUTS)) | flat(read_json(folder / "environment.json"))
    show.table(str(folder), ("", ""), [(key, value) for key, value in told.items() if value not in ("", None, [])])
    show.metrics(read_json(folder / "metrics.json"))
    show.console.print(f"config       {folder / 'config.yaml'}", markup=False)


@app.command()
def compare(runs: Annotated[list[str], RUNS]) -> None:
    """Runs side by side: what was set otherwise, on what machine, and what came out."""
    compared(runs, [folder_of(run) for run in runs])


def compared(names: Sequence[str], folders: Sequence[Path]) -> None:
    """Print what is not the same in all of some runs, and their metrics."""
    from luthier.cli import show
    from luthier.registry.origin import read_json
    from luthier.tracking.run import INPUTS, RUN, flat

    shown = {
        "settings": [flat(read_json(folder / RUN).get("config", {})) for folder in folders],
        "made from": [flat(read_json(folder / INPUTS)) for folder in folders],
        "machine": [flat(read_json(folder / "environment.json")) for folder in folders],
    }
    for title, trees in shown.items():
        keys = [
            key for key in dict.fromkeys(k for tree in trees for k in tree) if len({str(t.get(key)) for t in trees}) > 1
        ]
        if keys:
            show.table(title, ("", *names), [(key, *(tree.get(key, "") for tree in trees)) for key in keys])
    measured = [read_json(folder / "metrics.json") for folder in folders]
    keys = list(dict.fromkeys(key for values in measured for key in values))
    rows = [(key, *(show.number(values[key]) if key in values else "" for values in measured)) for key in keys]
    show.table("measured", ("", *names), rows)


@app.command()
def plot(
    runs: Annotated[list[str], RUNS],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="A .png file to write.")] = "losses.png",
) -> None:
    """Draw the losses of runs into one picture."""
    from luthier.errors import UserError
    from luthier.tracking.plot import plot_losses

    if Path(output).suffix.lower() != ".png":
        raise UserError(f"--output {output}: name a file that ends in .png")
    typer.echo(f"drawn: {plot_losses({run: folder_of(run) for run in runs}, Path(output))}")
