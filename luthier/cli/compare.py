"""`luthier compare BASE TUNED --data FILE`: whether it got better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.evaluate import ALL_METRICS, Data, Limit, Metrics, NewTokens, measure_with_bar, settings

if TYPE_CHECKING:
    from luthier.evaluate.measure import Measured


def compare(
    base: Annotated[str, typer.Argument(help="The model to compare with.", show_default=False)],
    tuned: Annotated[str, typer.Argument(help="The model that should be better.", show_default=False)],
    data: Data,
    *,
    metrics: Metrics = ALL_METRICS,
    max_new_tokens: NewTokens = 128,
    limit: Limit = None,
    show: Annotated[int, typer.Option(help="Answers to print side by side per file.", min=0)] = 0,
) -> None:
    """Measure two models on the same rows: differences with 95 % intervals, and a verdict."""
    config = settings(metrics, max_new_tokens, limit)
    pairs = zip(measure_with_bar(base, data, config), measure_with_bar(tuned, data, config), strict=True)
    for first, second in pairs:
        _table(first, second)
        _side_by_side(first, second, show)


def _table(base: Measured, tuned: Measured) -> None:
    from luthier.cli import show
    from luthier.evaluate.measure import compare_measured

    found = compare_measured(base, tuned)
    rows = [
        (
            c.name,
            f"{c.base:.3f}",
            f"{c.tuned:.3f}",
            f"{c.difference:+.3f}",
            f"[{c.low:+.3f}, {c.high:+.3f}]" if math.isfinite(c.low) else f"{c.rows} rows: too few",
            f"{100 * c.difference / c.base:+.1f} %" if c.base else "-",
            c.verdict,
        )
        for c in found
    ]
    columns = ("metric", "base", "tuned", "change", "95 % interval", "in %", "verdict")
    show.table(
        f"{base.file}: {max((c.rows for c in found), default=0)} rows (paired bootstrap over rows)", columns, rows
    )
    if not any(c.name == "loss" for c in found):
        show.console.print("  no loss: the two models do not see the same tokens (tokenizer or chat template differ)")


def _side_by_side(base: Measured, tuned: Measured, count: int) -> None:
    from rich.text import Text

    from luthier.cli.show import console
    from luthier.evaluate.measure import answers_of_both

    pairs = answers_of_both(base, tuned)
    for first, second in pairs[:: max(len(pairs) // max(count, 1), 1)][:count]:
        console.print(Text.assemble(("question  ", "bold"), first.question.prompt.question))
        console.print(Text.assemble(("base      ", "yellow"), first.answer))
        console.print(Text.assemble(("tuned     ", "green"), second.answer))
        console.print(Text.assemble(("expected  ", "dim"), first.question.reference), "")
