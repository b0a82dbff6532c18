"""What the verbs that take a source of rows have in common: its arguments, and the settings that they make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

SOURCE = typer.Argument(
    help="A file, a folder, a pattern, `-` for standard input, or hub:owner/name.", show_default=False
)
MODEL = typer.Option(help="Whose chat template renders the rows.")
FORMAT = typer.Option(help="Read the rows as this format.")
OPTIONS = typer.Option("--set", help="Other settings of the source, e.g. --set encoding=gb18030.")


def source_of(path: str, format: str, options: Iterable[str]) -> Any:
    """The settings of a source; raises ConfigError and DataError."""
    from luthier.config import SourceConfig, apply_override, parse_section
    from luthier.data.sources import resolved

    tree: dict[str, Any] = {"path": path, "format": format}
    for option in options:
        apply_override(tree, option)
    return resolved(parse_section(SourceConfig, tree, source=path))
