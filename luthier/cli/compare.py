"""`luthier compare BASE TUNED --data FILE`: whether it got better."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.evaluate import (
    ALL_METRICS,
    Data,
    Limit,
    Metrics,
    NewTokens,
    Overrides,
    measure_with_bar,
    rows_for,
    settings,
)

if TYPE_CHECKING:
    from luthier.evaluate.report import Section


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="The model to compare with, and those that should be better.", show_default=False),
    ],
    *,
    data: Data = None,
    metrics: Metrics = ALL_METRICS,
    max_new_tokens: NewTokens = 128,
    limit: Limit = None,
    overrides: Overrides = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="A model that says which answer is better, both ways round; or {model: NAME, endpoint: "
            "http://HOST:PORT/v1, key_variable: VARIABLE}.",
            metavar="MODEL",
        ),
    ] = None,
    show: Annotated[int, typer.Option(help="Rows to print side by side per file, those that changed most.", min=0)] = 0,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="A folder for report.md, report.html, what was found of every row, and the rows that got worse.",
        ),
    ] = None,
) -> None:
    """Measure models on the same rows: differences with 95 % intervals, a verdict, and what got worse."""
    config = settings(metrics, max_new_tokens, limit, overrides or ())
    if len(models) < 2:
        raise typer.BadParameter("name two models or more; the first is the one to compare with")
    from luthier.config import parse_section, value_of
    from luthier.curate.writer import Writer
    from luthier.evaluate.report import sections, write

    judging = None
    if judge:
        told = value_of(judge, source="--judge")
        judging = parse_section(Writer, told if isinstance(told, dict) else {"model": judge}, source="--judge")
        judging.require()
    folder, files = Path(output) if output else None, rows_for(models[1], data)
    names = [f"predictions-{number}.jsonl" for number in range(1, len(models) + 1)]
    measured = [
        measure_with_bar(model, files, config, output=str(folder / name) if folder else None)
        for model, name in zip(models, names, strict=True)
    ]
    found = sections(models, measured, judge=judging)
    for section in found:
        _table(section)
        _side_by_side(section, show)
    if folder:
        write(folder, models, found)
        from luthier.cli.show import console

        console.print(f"report  {folder / 'report.html'}, {folder / 'report.md'}", markup=False)


def _table(section: Section) -> None:
    from luthier.cli import show

    rows = [
        (
            c.name,
            f"{c.base:.3f}",
            f"{c.tuned:.3f}",
            f"{c.difference:+.3f}",
            f"[{c.low:+.3f}, {c.high:+.3f}]" if math.isfinite(c.low) else f"{c.rows} rows: too few",
            f"{100 * c.difference / c.base:+.1f} %" if c.base else "-",
            section.words(c),
        )
        for c in section.comparisons
    ]
    columns = ("metric", "base", "tuned", "change", "95 % interval", "in %", "verdict")
    most = max((c.rows for c in section.comparisons), default=0)
    show.table(f"{section.file}: {most} rows (paired bootstrap over rows){section.against}", columns, rows)
    if not any(c.name == "loss" for c in section.comparisons):
        show.console.print("  no loss: the two models do not see the same tokens (tokenizer or chat template differ)")
    for name, value, c in section.worse:
        show.console.print(
            f"  worse where {name} is {value}: {c.name} {c.difference:+.3f}, {c.rows} rows", markup=False
        )


def _side_by_side(section: Section, count: int) -> None:
    from rich.text import Text

    from luthier.cli.show import console

    for change in section.changes[:count]:
        console.print(Text.assemble((f"{change.where}  ", "bold"), change.question))
        for name, style, words in (
            ("base      ", "yellow", change.base), ("tuned     ", "green", change.tuned),
            ("expected  ", "dim", change.reference),
        ):  # fmt: skip
            console.print(Text.assemble((name, style), words))
        console.print(Text.assemble(("changed   ", "dim"), change.scores), "")
