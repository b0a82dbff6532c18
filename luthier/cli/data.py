"""`luthier data`: what a file is and what is in it, and its rows as the model sees them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.augment import augment
from luthier.cli.clean import clean, restore
from luthier.cli.source import FORMAT, MODEL, OPTIONS, SOURCE, source_of
from luthier.cli.where import where
from luthier.config import ModelConfig
from luthier.errors import DataError, RowError, UserError

if TYPE_CHECKING:
    from luthier.data.inspect import Inspection

app = typer.Typer(help="Look at data, clean it, and make more of it.", no_args_is_help=True)
app.command()(clean)
app.command()(restore)
app.command()(where)
app.command()(augment)


@app.command()
def inspect(
    source: Annotated[str, SOURCE],
    *,
    model: Annotated[str, MODEL] = "smollm2-135m-instruct",
    rows: Annotated[int, typer.Option(help="How many rows to show.", min=0)] = 2,
    format: Annotated[str, FORMAT] = "auto",
    options: Annotated[list[str] | None, OPTIONS] = None,
) -> None:
    """Say what a file is taken for and why, what is in it, and what of it nobody looks at."""
    from luthier.data.inspect import inspect as look
    from luthier.data.sources import files_of

    settings = source_of(source, format, options or ())
    for file in files_of(settings):
        found = look(settings, file, shown=rows)
        _say(found)
        _rendered(found.reading.format, found.first, model)


def _say(found: Inspection) -> None:
    from luthier.cli import show
    from luthier.data.formats.base import named

    reading = found.reading
    show.console.print(str(reading), markup=False, style="bold")
    others = ", ".join(f"{name} reads {100 * share:.0f} %" for name, share in found.others.items())
    lines = [
        ("why", f"{100 * found.share:.0f} % of the first rows have {named(reading.format).evidence}"
                + (f"; {others}" if others else "")),
        ("encoding", found.encoding),
        ("not read", ", ".join(found.unread)),
        ("usable", f"{found.usable:,} of {reading.rows:,} rows"),
        ("characters", show.spread(found.characters)),
        ("languages", show.languages(found.sample)),
        ("said twice", f"{found.repeated:,} rows say what another one says" if found.repeated else ""),
    ]  # fmt: skip
    lines += [(f"{count:,} x {reason}", str(found.bad[reason])) for reason, count in found.bad_counts.most_common()]
    show.table("", ("", ""), [line for line in lines if line[1]])


@app.command()
def stats(
    source: Annotated[str, SOURCE],
    *,
    model: Annotated[str, MODEL] = "smollm2-135m-instruct",
    image: Annotated[str, typer.Option(help="Draw it too, into this PNG file.")] = "",
    max_length: Annotated[int, typer.Option(help="Say how many rows have more tokens.", min=1)] = 1024,
    format: Annotated[str, FORMAT] = "auto",
    options: Annotated[list[str] | None, OPTIONS] = None,
) -> None:
    """Count characters, tokens, turns and languages, and how well the rows pack."""
    from pathlib import Path

    from luthier.cli import show
    from luthier.data.stats import draw, packings
    from luthier.data.stats import stats as counted
    from luthier.models.load import ModelLoader

    if image and Path(image).suffix.lower() != ".png":
        raise UserError(f"--image {image}: name a file that ends in .png")
    settings = source_of(source, format, options or ())
    found = counted(settings, ModelLoader().renderer(ModelConfig(path=model)))
    longer = sum(length > max_length for length in found.whole)
    turns = ", ".join(f"{count:,} x {turns}" for turns, count in sorted(found.turns.items())[:8] if turns)
    lines = [
        ("usable", f"{len(found.whole):,} of {found.files.total():,} rows"),
        *(("", f"{count:,} x {reason}, first {found.first_bad[reason]}") for reason, count in found.bad.most_common()),
        ("files", ", ".join(f"{file} {count:,}" for file, count in found.files.most_common(8))),
        ("characters", show.spread(found.characters)),
        ("tokens", f"{show.spread(found.whole)}; {longer:,} rows above {max_length:,}"),
        ("of prompts", show.spread(found.prompt)),
        ("of answers", f"{show.spread(found.answer)}; {100 * sum(found.answer) / sum(found.whole):.0f} % of all"),
        ("turns", turns),
        ("roles", ", ".join(f"{count:,} {role}" for role, count in found.roles.most_common())),
        ("languages", show.languages(found.sample)),
    ]
    show.table("", ("", ""), [line for line in lines if line[1]])
    columns = ("max_length", "packed, % not padding", "padded in file order", "longer, cut")
    packed = [
        (f"{p.width:,}", f"{100 * p.packed:.1f}", f"{100 * p.padded:.1f}", f"{p.longer:,}")
        for p in packings(found.lengths)
    ]
    show.table("", columns, packed)
    if image:
        draw(found, Path(image), max_length=max_length, title=f"{source}: {len(found.whole):,} rows")
        show.console.print(f"drawn: {image}", markup=False)


@app.command()
def show(
    source: Annotated[str, SOURCE],
    *,
    model: Annotated[str, MODEL] = "smollm2-135m-instruct",
    row: Annotated[int | None, typer.Option(help="Show this row (the first is 1).", min=1)] = None,
    rows: Annotated[int, typer.Option(help="How many rows to show.", min=1)] = 2,
    format: Annotated[str, FORMAT] = "auto",
    options: Annotated[list[str] | None, OPTIONS] = None,
) -> None:
    """Print rows with their trained tokens coloured."""
    from itertools import islice

    from luthier.cli import show as shown
    from luthier.data.recognise import recognised
    from luthier.data.sources import files_of

    settings = source_of(source, format, options or ())
    found = recognised(settings, files_of(settings)[0], limit=settings.limit)
    start = 0 if row is None else row - 1
    chosen = list(islice(found.rows, rows if row is None else row))
    if len(chosen) <= start:
        raise DataError(f"{found.file}: --row {row}, but the file has {len(chosen)} rows")
    shown.console.print(str(found.reading()), markup=False)
    _rendered(found.format, chosen[start:], model)


def _rendered(format: str, rows: Iterable[Any], model: str) -> None:
    """Print rows as the model sees them."""
    from luthier.cli import show as shown
    from luthier.data.formats.base import read
    from luthier.data.mask import explained, sequences
    from luthier.models.load import ModelLoader
    from luthier.train.check import Sample

    rows = list(rows)
    if not rows:
        return
    renderer = ModelLoader().renderer(ModelConfig(path=model))
    for row in rows:
        try:
            found = sequences(read(format, row), renderer)
        except RowError as error:
            shown.console.print(f"{row.origin}: cannot be used: {error.detail} ({error.reason})", markup=False)
            continue
        for number, (rendered, talk) in enumerate(found, 1):
            part = f" (sequence {number} of {len(found)})" if len(found) > 1 else ""
            why = explained(rendered, talk, renderer)
            pieces = [(text, not reason) for text, reason in why.pieces]
            shown.rendered(Sample(f"{row.origin}{part}", pieces, [reason for _, reason in why.pieces], why.left_out))
