"""`luthier models`: what this machine has, tuned models as whole ones, and the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.registry.index import Registry
from luthier.registry.origin import Made, Origin

app = typer.Typer(help="Models on this machine, and the registry of tuned ones.", no_args_is_help=True)
VERSION = typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS.", metavar="VERSION", show_default=False)


@app.command("list")
def list_models(
    name: Annotated[str, typer.Argument(help="A model of the registry, whose versions are listed.")] = "",
    *,
    runs: Annotated[str, typer.Option(help="Folder whose runs are listed.")] = "runs",
    limit: Annotated[int, typer.Option(help="How many versions, the newest first.", min=1)] = 20,
) -> None:
    """The registry, the catalogue, the cache of the model hub, and the runs in a folder; or the versions of a model."""
    from luthier.cli.show import table
    from luthier.models.catalogue import entries
    from luthier.tracking.run import RunFolder

    if name:
        _versions(name, limit)
        return
    aliases = Registry().aliases()
    rows: list[tuple[str, str, str]] = []
    for model, count, newest in Registry().models():
        known = ", ".join(f"@{alias} is {number}" for own, alias, number in aliases if own == model)
        rows.append((f"models:/{model}/{newest}", f"registered, {count:,} versions", known))
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


def _versions(name: str, limit: int) -> None:
    from luthier.cli.show import number, table
    from luthier.errors import ModelError
    from luthier.registry.names import require_name

    registry, name = Registry(), require_name(name.removeprefix("models:/"))
    found, aliases = registry.versions(name, limit=limit), registry.aliases()
    if not found:
        raise ModelError(f"models:/{name}: no such model is registered; see luthier models list")
    rows = []
    for one in found:
        known = " ".join(f"@{alias}" for model, alias, at in aliases if (model, at) == (name, one.number))
        loss = number(one.metrics["loss"]) if "loss" in one.metrics else ""
        rows.append((one.number, known, one.made, ", ".join(one.parents), loss, one.created[:19], one.weights[:12]))
    table("", ("version", "alias", "made", "of", "loss", "registered", "weights"), rows)
    if len(found) == limit:
        typer.echo(f"the newest {limit}; more with --limit")


@app.command()
def register(
    source: Annotated[str, typer.Argument(help="A finished run: its folder or id; or a folder that says what it is.")],
    *,
    name: Annotated[str, typer.Option(help="The model that this is a version of.", show_default=False)],
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be given several times.")] = None,
    parent: Annotated[str, typer.Option(help="What a folder that is no run was made of.")] = "",
    made: Annotated[Made, typer.Option(help="How it was made of that.")] = "exported",
) -> None:
    """Keep a tuned model as the next version of a name, with everything that its run recorded."""
    tags = dict(one.partition("=")[::2] for one in tag or ())
    origin = Origin(made, [parent]) if parent else None
    version = Registry().register(source, name, tags=tags, origin=origin)
    typer.echo(f"registered   {version.uri}\ntalk to it   luthier chat {version.uri}")


@app.command()
def show(
    version: Annotated[str, VERSION],
    *,
    svg: Annotated[str, typer.Option(help="Draw its lineage into this .svg file, too.")] = "",
) -> None:
    """What a version is, what was measured, and its lineage both ways."""
    from rich.tree import Tree

    from luthier.cli import show
    from luthier.registry.lineage import Node, drawn, lineage, made_of
    from luthier.system.files import write_text

    registry = Registry()
    found = registry.version(version)
    damaged = registry.damaged(found)
    known = [f"@{a}" for name, a, number in registry.aliases() if (name, number) == (found.name, found.number)]
    told = {"registered": found.created, "aliases": " ".join(known), "tags": dict(found.tags) or "",
            "files": registry.folder(found), "damaged": ", ".join(damaged)}  # fmt: skip
    show.table(found.uri, ("", ""), [(key, value) for key, value in told.items() if value])
    show.metrics(found.metrics)

    def tree(node: Node) -> Tree:
        grown = Tree(f"{node.name}  [dim]{node.what}[/]")
        grown.children = [tree(parent) for parent in node.of]
        return grown

    source, below = lineage(registry, found), made_of(registry, found)
    show.console.print(tree(source))
    for one in below:
        show.console.print(f"made of it: {one.uri}  [dim]{one.made}[/]")
    if svg:
        write_text(Path(svg), drawn(source, below))
        show.console.print(f"drawn: {svg}", markup=False)


@app.command()
def diff(before: Annotated[str, VERSION], after: Annotated[str, VERSION]) -> None:
    """What two versions do not have in common: settings, machine, rows, metrics, weights."""
    from luthier.cli.runs import compared
    from luthier.drive.differ import changed_rows, named, weights
    from luthier.registry.origin import read_json

    registry = Registry()
    found = [registry.version(text) for text in (before, after)]
    folders = [registry.folder(one) for one in found]
    compared([one.uri for one in found], folders)
    rows = changed_rows(*(read_json(folder / "rows.json") for folder in folders))
    typer.echo(f"rows      {len(rows):,} differ{': ' if rows else ''}{named(rows)}")
    weighed = weights(*folders)
    far = sorted((one for one in weighed if one.before != one.after), key=lambda one: -one.distance)
    typer.echo(f"weights   {len(weighed) - len(far)} of {len(weighed)} tensors have the same bits")
    for one in far[:5]:
        typer.echo(f"          {one.name}: {one.distance:.3g} of its norm")


@app.command()
def promote(
    version: Annotated[str, VERSION], *, alias: Annotated[str, typer.Option(help="What it is called.")] = "champion"
) -> None:
    """Let an alias stand for a version; what it stood for before is remembered."""
    found = Registry().promote(version, alias)
    typer.echo(f"models:/{found.name}@{alias} is {found.uri}")


@app.command()
def rollback(alias: Annotated[str, typer.Argument(help="models:/NAME@ALIAS.", show_default=False)]) -> None:
    """Let an alias stand for the version that it stood for before."""
    typer.echo(f"{alias} is {Registry().rollback(alias).uri}")


@app.command()
def delete(version: Annotated[str, VERSION]) -> None:
    """Remove a version that no alias and no other version needs."""
    typer.echo(f"deleted      {Registry().delete(version).uri}; luthier models gc frees the disk")


@app.command("export-card")
def export_card(version: Annotated[str, VERSION]) -> None:
    """Print the card of a version as the model hub reads it: licences, metrics, lineage."""
    from luthier.registry.card import card

    found = Registry().version(version)
    typer.echo(card(Registry().folder(found), title=found.uri, parents=found.parents))


@app.command()
def gc() -> None:
    """Free what no version holds any more, and what killed commands left."""
    count, size = Registry().gc()
    typer.echo(f"removed      {count:,} files, {size / 1e6:,.1f} MB")


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
