"""What every verb shows the same way: tables, rendered rows, findings, progress."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from luthier.data.processor import Prepared
    from luthier.train.check import Report, Sample

console = Console(highlight=False, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")
"""Of several processes the first one speaks."""
TRAINED = "bold green"
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
COLOURS = {"warning": "yellow", "note": "cyan"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; cells are plain text."""
    result = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    result.padding = (0, 1, 0, 0)
    for name in columns:
        result.add_column(name, overflow="fold")
    for row in rows:
        result.add_row(*[Text(str(cell)) for cell in row])
    console.print(result)


def rendered(sample: Sample) -> None:
    """Print one row as the model sees it: what is trained in colour, or between marks where there is none.

    Where the reasons for what is not trained are known, they stand below, under the numbers that stand before it.
    """
    console.print(
        Text(f"{sample.where}", style="bold"), Text("(trained tokens in green)" if console.color_system else "")
    )
    text, numbers = Text(), {reason: n for n, reason in enumerate(dict.fromkeys(filter(None, sample.reasons)), 1)}
    for place, (piece, trained) in enumerate(sample.pieces):
        if numbers and not trained:
            text.append(str(numbers[sample.reasons[place]]).translate(RAISED), style=COLOURS["note"])
        shown = piece if console.color_system or not trained else f"⟦{piece}⟧"
        text.append(shown, style=TRAINED if trained else "dim")
    console.print(text)
    for reason, number in numbers.items():
        console.print(Text.assemble((f"  {str(number).translate(RAISED)} ", COLOURS["note"]), (reason, "dim")))
    for name in sample.left_out:
        console.print(Text.assemble(("  - ", COLOURS["note"]), (f"not written by the chat template: {name}", "dim")))
    console.print()


def share_cores() -> None:
    """Be a good neighbour: hold no memory in vain, and on a busy machine, which is said, share; call before torch."""
    from luthier.distributed.mesh import world
    from luthier.system.hardware import return_freed_memory, share_busy_cores

    if world() > 1:  # one process holds a tenth more without it, and is 1.2 to 1.4 times as fast
        return_freed_memory()
    if share_busy_cores() and console.is_terminal:
        console.print(Text("this machine is busy with other programs; sharing its cores with them", style="dim"))


def readings(data: Prepared) -> None:
    """Print what was decided about each file, and the ledger's summary."""
    for reading in data.readings:
        console.print(Text(f"  {reading}"))
    counts = ", ".join(f"{count} {name}" for name, count in data.ledger.summary().items())
    console.print(Text(f"  rows: {counts}; {len(data.train)} to train on, {len(data.held_out)} held out"))


def findings(report: Report) -> None:
    """Print what a check warns of; its errors are raised, and said once."""
    for level in ("warning", "note"):
        for finding in report.findings:
            if finding.level == level:
                console.print(Text.assemble((f"  {level} ", COLOURS[level]), str(finding)))


def metrics(values: Mapping[str, float]) -> None:
    """Print names and numbers."""
    table("", ("measured", "value"), [(name, number(value)) for name, value in values.items()])


def spread(values: Sequence[int]) -> str:
    """Median, 95th percentile and largest of some numbers."""
    if not values:
        return ""
    ordered = sorted(values)
    middle, high = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    return f"median {middle:,}, 95 % up to {high:,}, longest {ordered[-1]:,}"


def languages(texts: Sequence[str]) -> str:
    """What share of some texts is in which language; nothing where that cannot be told here."""
    from luthier.data.language import language
    from luthier.errors import MissingExtra

    try:
        counts = Counter(language(text)[0] or "none" for text in texts)
    except MissingExtra as missing:
        return str(missing)
    shares = ", ".join(f"{100 * count / len(texts):.0f} % {code}" for code, count in counts.most_common(4))
    return f"{shares} (of {len(texts)} rows)" if texts else ""


def number(value: float) -> str:
    """Four significant digits, whole numbers whole."""
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def progress() -> Progress:
    """A progress bar in the house's style; silent where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_interactive,
    )
