"""What cleaning did, to be read: how many rows each rule changed or dropped, how their scores lie, and examples."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from luthier.data.clean.ledger import Tally
from luthier.supplies import filled

ROOM = "luthier.data.clean"
"""Where the pages lie that are filled in."""
BINS = 20


def write(tally: Tally, folder: Path, *, source: str, cleaners: Sequence[str]) -> None:
    """`report.md` and `report.html` in a folder."""
    (folder / "report.md").write_text(markdown(tally, source=source, cleaners=cleaners), encoding="utf-8")
    (folder / "report.html").write_text(page(tally, source=source, cleaners=cleaners), encoding="utf-8")


def markdown(
    tally: Tally, *, source: str, cleaners: Sequence[str], done: str = "cleaned", by: str = "mended by"
) -> str:
    """The report as Markdown."""
    named = ", ".join(cleaners)
    return filled(ROOM, "report.md", tally=tally, source=source, cleaners=named, done=done, by=by, spread=_spread)


def _spread(scores: Sequence[float]) -> str:
    ordered = sorted(scores)
    return f"{ordered[0]:.3g} to {ordered[-1]:.3g}, median {ordered[len(ordered) // 2]:.3g}"


def page(tally: Tally, *, source: str, cleaners: Sequence[str]) -> str:
    """The report as one page without scripts or requests; rows are text, whatever they hold."""
    folder = f"{Path(source).parent}/"

    def say(text: str) -> str:
        return html.escape(text.replace(folder, "") if len(folder) > len("./") else text)

    named = ", ".join(cleaners)
    return filled(ROOM, "report.html", tally=tally, source=source, cleaners=named, say=say, histogram=histogram)


def histogram(scores: Sequence[float], threshold: float) -> str:
    """Scores of dropped rows as bars, the threshold as a line."""
    low, high = min(*scores, threshold), max(*scores, threshold)
    if low == high:
        return ""
    counts = [0] * BINS
    for score in scores:
        counts[min(int((score - low) / (high - low) * BINS), BINS - 1)] += 1
    heights, at = [55 * count / max(counts) for count in counts], (threshold - low) / (high - low) * 300
    told = f"scores of dropped rows; the line is the threshold, {threshold:g}"
    return filled(ROOM, "histogram.svg", heights=heights, at=at, low=low, high=high, told=told)
