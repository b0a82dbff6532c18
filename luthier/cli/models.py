"""`luthier models list | fetch | merge`: what this machine has, and tuned models as whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Models on this machine.", no_args_is_help=True)


@app.command("list")
def list_models(
    runs: Annotated[str, typer.Option(help="Folder whose runs are listed.")] = "runs",
) -> None:
    """The catalogue, the local cache of the model hub, and the runs in a folder."""
    from luthier.cli.show import table
    from luthier.models.catalogue import entries
    from luthier.tracking.run import RunFolder

    rows: list[tuple[str, str, str]] = []
    for entry in entries().values():
        state = "on this machine" if entry.fetched else f"luthier models fetch {entry.name}"
        size = f"{entry.parameters / 1e6:.0f}M" if entry.parameters else "data"
        rows.append((entry.name, f"{entry.title}, {size}, {entry.licence}", state))
    rows += [(name, "from the model hub", "in the local cache") for name in _cached()]
    for folder in sorted(Path(runs).glob("*")):
        record = RunFolder(folder).record()
        if record is not None:
            state = "finished" if record["finished"] else "unfinished"
            rows.append((str(folder), f"run on {record['config']['model']['path']}", state))
    table("", ("name", "what", "where"), rows)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name from `luthier models list`.", show_default=False)]) -> None:
    """Download a model of the catalogue once and convert it for training; or data, such as words and their synonyms."""
    from luthier.cli.show import console
    from luthier.models.catalogue import entries
    from luthier.models.catalogue import fetch as fetch_model

    there = name in entries() and entries()[name].fetched
    if not there:
        console.print(f"fetching {name} (once; up to half a minute)")
    folder = fetch_model(name)
    console.print(f"{name} is {'already ' if there else ''}in {folder}")


@app.command()
def merge(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="The output folder of a run, or one of its checkpoints; of several, the updates are added.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="A new folder for the model.", show_default=False)],
) -> None:
    """Make a tuned adapter part of the weights of its base, in float32; the model then needs no adapter."""
    from luthier.adapters.merge import save_merged
    from luthier.cli.show import console

    options = save_merged(runs[0], output, *runs[1:])
    console.print(f"merged model {output}\ntalk to it   luthier chat {output}")
    if options:
        console.print(f"note         it was tuned with template_options {options}; write them into configs that use it")


def _cached() -> list[str]:
    """Models in the cache of the hub's own library, without asking the hub."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return []
