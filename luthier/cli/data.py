"""`luthier data show FILE`: what a file is, and its rows as the model sees them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look at data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at data."""


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="A .json or .jsonl file.", show_default=False)],
    *,
    model: Annotated[str, typer.Option(help="Whose chat template renders the rows.")] = "smollm2-135m-instruct",
    row: Annotated[int | None, typer.Option(help="Show this row (the first is 1).", min=1)] = None,
    rows: Annotated[int, typer.Option(help="How many rows to show.", min=1)] = 2,
    format: Annotated[str, typer.Option(help="Read the rows as this format.")] = "auto",
) -> None:
    """Say which layout a file has, and print rows with their trained tokens coloured."""
    from luthier.cli import show as shown
    from luthier.config import ModelConfig, SourceConfig
    from luthier.data.formats.base import named
    from luthier.data.processor import Reading, recognised
    from luthier.data.sources import read_rows
    from luthier.errors import DataError, RowError
    from luthier.models.load import ModelLoader

    all_rows = list(read_rows(file))
    if not all_rows:
        raise DataError(f"{file}: the file holds no rows")
    name = recognised(SourceConfig(path=file, format=format), all_rows)
    shown.console.print(str(Reading(file, name, format == "auto", len(all_rows))), markup=False)
    if row is not None and row > len(all_rows):
        raise DataError(f"{file}: --row {row}, but the file has {len(all_rows)} rows")
    chosen = all_rows[:rows] if row is None else [all_rows[row - 1]]
    loader, config = ModelLoader(), ModelConfig(path=model)
    renderer = loader.renderer(config)
    for one in chosen:
        try:
            content = named(name).read(one)
            _print(content, str(one.origin), renderer)
        except RowError as error:
            shown.console.print(f"{one.origin}: cannot be used: {error.detail} ({error.reason})", markup=False)


def _print(content: object, where: str, renderer: object) -> None:
    from luthier.cli.show import rendered
    from luthier.data.conversation import Conversation, Text
    from luthier.data.render import Renderer
    from luthier.train.check import Sample, pieces

    assert isinstance(renderer, Renderer) and isinstance(content, Conversation | Text)
    sequences = renderer.conversation(content) if isinstance(content, Conversation) else [renderer.whole(content)]
    for number, tokens in enumerate(sequences, 1):
        part = f" (sequence {number} of {len(sequences)})" if len(sequences) > 1 else ""
        rendered(Sample(where + part, pieces(tokens, renderer)))
