"""`luthier migrate FILE`: a config of another tool as one of this one, with an account of every key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.config import read_tree
from luthier.errors import ConfigError, OutputError
from luthier.plugins import suggestion

if TYPE_CHECKING:
    from luthier.migrate.tools import Translation

WORDS = {
    "mapped": ("same meaning", "green"),
    "default": ("not in the file, so that their defaults hold", "green"),
    "not needed": ("not needed", "cyan"),
    "changed": ("changed in meaning", "yellow"),
    "refused": ("refused", "red"),
}


def migrate(
    file: Annotated[str, typer.Argument(help="A YAML or JSON file of another tool.", show_default=False)],
    *,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the config to this new file.")] = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="llamafactory, axolotl or trl; by default recognised.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="TRL only: sft, dpo, kto, reward, grpo or rloo.")] = None,
    devices: Annotated[int, typer.Option(help="How many devices their batch size is meant for.", min=1)] = 1,
    partial: Annotated[
        bool, typer.Option("--partial", help="Write the config even where keys are refused; they stand as comments.")
    ] = False,
) -> None:
    """Translate a config of LLaMA-Factory, Axolotl or TRL, and say what became of every key."""
    from luthier.cli.show import console
    from luthier.migrate.tools import TOOLS, recognised, translation

    tree = read_tree(file)
    if origin is not None and origin not in TOOLS:
        raise ConfigError(f"--from {origin}: {suggestion(origin, TOOLS)}", source=file)
    tool = origin or recognised(tree, file)
    if tool is None:
        raise ConfigError(
            f"not a config of another tool that is known; if it is one, say which: --from {' | '.join(TOOLS)}",
            source=file,
        )
    if output is not None and Path(output).exists():
        raise OutputError(f"{output} exists; name a new file")
    found = translation(tool, tree, source=file, devices=devices, method=method)
    show_translation(found)
    if not partial:
        found.config()
    if output is None:
        console.print(found.to_yaml(), markup=False)
        return
    from luthier.system.files import write_text

    write_text(Path(output), found.to_yaml())
    console.print(f"written      {output}\ncheck it     luthier check {output}", markup=False)


def show_translation(found: Translation) -> None:
    """Print what became of every key."""
    from rich.text import Text

    from luthier.cli.show import console

    console.print(f"{found.source}: a config of {found.title}", markup=False)
    for outcome, (words, colour) in WORDS.items():
        lines = found.outcome(outcome)
        if lines:
            console.print(Text(f"{words}:", style=f"bold {colour}"))
        for line in lines:
            console.print(Text(f"  {line}"))
    console.print()
