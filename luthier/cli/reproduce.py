"""`luthier reproduce models:/NAME/VERSION`: train it again from its record, and compare weight by weight."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

SHOWN = 8
"""Tensors that are named of those that came out otherwise."""


def reproduce(
    version: Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS.", show_default=False)],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Keep the new run in this folder.")] = "",
) -> None:
    """Train a version again from its record, and say weight by weight whether it came out the same."""
    from luthier.cli.runs import compared
    from luthier.drive.differ import weights
    from luthier.drive.reproduce import reproduce as again
    from luthier.registry.index import Registry

    registry = Registry()
    found = registry.version(version)
    with tempfile.TemporaryDirectory() as scratch:
        made = again(registry, found, Path(output or f"{scratch}/run"))
        compared([found.uri, "made again"], [registry.folder(found), made])
        told = weights(registry.folder(found), made)
    other = sorted((one for one in told if one.before != one.after), key=lambda one: -one.distance)
    for one in other[:SHOWN]:
        typer.echo(f"  {one.name}  {one.before[:12]} -> {one.after[:12]}, {one.distance:.2g} of its norm away")
    typer.echo(f"{found.uri}: {len(told) - len(other)} of {len(told)} weights came out with the same hash")
    if other:
        typer.echo(
            "not the same; what was different is in the tables above (nothing there: the machine is, or its load)"
        )
        raise typer.Exit(1)
