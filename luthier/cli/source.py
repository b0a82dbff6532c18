"""What the verbs that take a source of rows have in common: its arguments, and the settings that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from luthier.config import SourceConfig, apply_override, parse_section
from luthier.errors import UserError

SOURCE = typer.Argument(
    help="A file, a folder, a pattern, `-` for standard input, or hub:owner/name.", show_default=False
)
MODEL = typer.Option(help="Whose chat template renders the rows.")
FORMAT = typer.Option(help="Read the rows as this format.")
OPTIONS = typer.Option("--set", help="Other settings of the source, e.g. --set encoding=gb18030.")


def require_place(output: str, *, dry_run: bool) -> None:
    """Refuse to work for nothing."""
    if not output and not dry_run:
        raise UserError("say where the rows go: -o FOLDER (or look first: --dry-run)")


def show_tally(tally: Any, first: Iterable[tuple[str, int]], *, made: str, gone: str) -> None:
    """Print what became of rows, by rule, with the first of those that went."""
    from luthier.cli.show import table

    lines: list[tuple[object, ...]] = [(*one, "") for one in first]
    lines += [(f"{made} {rule}", count, "") for rule, count in tally.mended.most_common()]
    for rule, count in tally.dropped.most_common():
        where, detail, _ = tally.examples[rule][0]
        lines.append((f"{gone}: {rule}", count, f"{where}: {detail}"))
    table("", ("rows", "", "first"), lines)


def source_of(path: str, format: str, options: Iterable[str]) -> Any:
    """The settings of a source; raises ConfigError and DataError."""
    from luthier.data.sources import resolved

    tree: dict[str, Any] = {"path": path, "format": format}
    for option in options:
        apply_override(tree, option)
    return resolved(parse_section(SourceConfig, tree, source=path))


def chosen_parts(names: Mapping[str, str], changes: Iterable[str]) -> dict[str, Any]:
    """A config section of parts: for each key some names, with commas between; each part with its settings changed.

    Raises:
        ConfigError: a change that is none.
        UserError: a change of a part that was not chosen.
    """
    section = {key: {one.strip(): {"type": one.strip()} for one in given.split(",") if one.strip()}
               for key, given in names.items()}  # fmt: skip
    for change in changes:
        name, _, setting = change.partition(".")
        part = next((parts[name] for parts in section.values() if name in parts), None)
        if part is None:
            raise UserError(
                f"--rule {change}: {name} is not among {', '.join(one for p in section.values() for one in p)}"
            )
        apply_override(part, setting)
    return {key: list(parts.values()) for key, parts in section.items()}
