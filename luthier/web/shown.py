"""What commands have written, as pieces of a page: their output in colours, their metrics as a curve."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from io import StringIO
from typing import Any

from luthier.supplies import shipped

WIDTH, HEIGHT, LEFT, FOOT = 420, 200, 56, 28
POINTS = 400
"""Of a curve: of more steps, the lowest and the highest of neighbours are drawn, so that no spike is lost."""
RECENT = 50
"""Steps whose speed is that of a run."""
LINES = 400
"""Last lines of an output that are shown."""


def page_of(output: str) -> str:
    """A command's output, with the colours it has in a terminal, as HTML that holds nothing else."""
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text

    lines = [line.rsplit("\r", 1)[-1] for line in output.replace("\r\n", "\n").rstrip().split("\n")[-LINES:]]
    console = Console(record=True, file=StringIO(), width=200, force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True, end="")
    colours = TerminalTheme(*shipped("luthier.web", "text/theme.yaml")["output"])
    code = console.export_html(theme=colours, inline_styles=True, code_format="{code}")
    # two elements: the outer one is laid out from its foot, so that the newest lines are seen
    return f'<pre class="output" role="log" tabindex="0"><span>{code}</span></pre>'


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most so many points: of each stretch the first of its lowest and of its highest, in their order."""
    if len(points) <= most:
        return list(points)
    width, kept = len(points) / (most // 2), []
    for number in range(most // 2):
        stretch = points[int(number * width) : int((number + 1) * width)]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def curve(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Values against steps as an SVG picture, a line each; points that are no numbers are left out."""
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    every = [point for points in finite.values() for point in points]
    if not every:
        return ""
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    wide, tall = (right - left) or 1, (high - low) or 1

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (point[0] - left) / wide * (WIDTH - LEFT - 8)
        return f"{x:.1f},{8 + (high - point[1]) / tall * (HEIGHT - FOOT - 8):.1f}"

    drawn = "".join(
        f'<polyline class="line-{number}" points="{" ".join(map(place, thinned(points)))}"/>'
        for number, points in enumerate(finite.values())
        if points
    )
    axes = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{said:.4g}</text>'
        for x, y, anchor, said in (
            (LEFT - 6, 16, "end", high),
            (LEFT - 6, HEIGHT - FOOT, "end", low),
            (LEFT, HEIGHT - 8, "start", left),
            (WIDTH - 8, HEIGHT - 8, "end", right),
        )
    )
    names = " · ".join(
        f'<tspan class="line-{number}">{html.escape(name)}</tspan>'
        for number, name in enumerate(finite)
        if finite[name]
    )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{axes}<text x="{WIDTH // 2}" y="{HEIGHT - 8}" text-anchor="middle">{names}</text>{drawn}</svg>'
    )


def pace(rows: Sequence[Mapping[str, Any]], epochs: float, most: int | None) -> dict[str, Any] | None:
    """How far a run is and how long it will last at the speed of its last steps; None before the first one."""
    steps = [row for row in rows if "seconds" in row]
    if not steps:
        return None
    last, recent = steps[-1], steps[-RECENT:]
    whole = round(epochs * last["step"] / last["epoch"]) if last.get("epoch") else most or 0
    total = max(min(whole, most or whole), last["step"])
    seconds = max(sum(row["seconds"] for row in recent), 1e-9)
    left = timedelta(seconds=round((total - last["step"]) * seconds / len(recent)))
    speed = sum(row["tokens"] for row in recent) / seconds
    return {"step": last["step"], "total": total, "speed": f"{speed:,.0f}", "left": left}


def bar(step: int, total: int, said: str) -> str:
    """How much of something is done, as a bar and in words."""
    words = html.escape(said)
    return f'<p class="pace">{words}</p><progress value="{step}" max="{total}" aria-label="{words}"></progress>'


def curves(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, Sequence[str]]) -> str:
    """Pictures of a run's metrics: of each title the keys that are drawn together."""
    pictures = []
    for title, keys in titles.items():
        lines = {key: [(float(row["step"]), float(row[key])) for row in rows if key in row] for key in keys}
        pictures.append(curve(title, {key: points for key, points in lines.items() if points}))
    return "".join(f"<figure><figcaption>{html.escape(title)}</figcaption>{picture}</figure>"
                   for title, picture in zip(titles, pictures, strict=True) if picture)  # fmt: skip
