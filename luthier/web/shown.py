"""What commands have written, as pieces of a page: their output in colours, their metrics as a curve."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from luthier.supplies import shipped

WIDTH, HEIGHT, LEFT, FOOT = 420, 200, 72, 28
POINTS = 400
"""Of a curve: of more steps, the lowest and the highest of neighbours are drawn, so that no spike is lost."""
LINES = 400
"""Last lines of an output that are shown."""
WIDE = 120
"""Characters in a line of a report."""
NAMED = re.compile(r"[\w.+/-]+\.(?:png|svg|md)\b")
MOST_ANSWERS = 5
"""To one question: the first and the last ones are shown."""
MOST_BYTES = 4_000_000
"""Of a picture or report that is shown."""
Points = np.ndarray[Any, Any]
"""Steps and values, a row each."""


def page_of(output: str) -> str:
    """A command's output, with the colours it has in a terminal, as HTML that holds nothing else."""
    lines = [line.rsplit("\r", 1)[-1] for line in output.replace("\r\n", "\n").rstrip().split("\n")[-LINES:]]
    code = _coloured(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    # two elements: the outer one is laid out from its foot, so that the newest lines are seen
    return f'<pre class="output" role="log" tabindex="0"><span>{code}</span></pre>'


def _coloured(said: Text | Markdown, *, soft_wrap: bool = False) -> str:
    console = Console(record=True, file=StringIO(), width=WIDE, force_terminal=True, color_system="truecolor")
    console.print(said, soft_wrap=soft_wrap, end="")
    colours = TerminalTheme(*shipped("luthier.web", "text/theme.yaml")["output"])
    return console.export_html(theme=colours, inline_styles=True, code_format="{code}")


def literally(text: str) -> str:
    """A text in which a page finds no tags, where it would look for some; all else stays, to be copied as it is."""
    return re.sub(r"&(?=(?:amp;)*lt;)", "&amp;", text).replace("<", "&lt;") if "<" in text or "lt;" in text else text


def meant(text: str) -> str:
    """What was given to `literally`."""
    return re.sub(r"&((?:amp;)*)lt;", lambda found: f"&{found[1][4:]}lt;" if found[1] else "<", text)


def _plain(output: str) -> str:
    return Text.from_ansi(output).plain


def thinned(points: Points, most: int = POINTS) -> Points:
    """At most so many points: of each stretch the first of its lowest and of its highest, in their order."""
    if len(points) <= most:
        return points
    kept, start = list[int](), 0
    for stretch in np.array_split(points[:, 1], most // 2):
        kept += sorted({start + int(stretch.argmin()), start + int(stretch.argmax())})
        start += len(stretch)
    return points[kept]


def curve(title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Values against steps as an SVG picture, a line each; points that are no numbers are left out."""
    given = {name: np.column_stack([np.asarray(one, float) for one in columns]) for name, columns in lines.items()}
    finite = {name: points[np.isfinite(points[:, 1])] for name, points in given.items()}
    every = np.concatenate([np.empty((0, 2)), *finite.values()])
    if not len(every):
        return ""
    (left, low), (right, high) = every.min(axis=0), every.max(axis=0)
    wide, tall = (right - left) or 1, (high - low) or 1

    def place(point: Any) -> str:
        x = LEFT + (point[0] - left) / wide * (WIDTH - LEFT - 8)
        return f"{x:.1f},{8 + (high - point[1]) / tall * (HEIGHT - FOOT - 8):.1f}"

    drawn = "".join(
        f'<polyline class="line-{number}" points="{" ".join(map(place, thinned(points)))}"/>'
        for number, points in enumerate(finite.values())
        if len(points)
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
        if len(finite[name])
    )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{axes}<text x="{WIDTH // 2}" y="{HEIGHT - 8}" text-anchor="middle">{names}</text>{drawn}</svg>'
    )


def pace(rows: Sequence[Mapping[str, Any]], epochs: float, most: int | None) -> dict[str, Any] | None:
    """How far a run is and how long it will last at the speed of its last steps, which are given; None without one."""
    if not rows:
        return None
    last = rows[-1]
    whole = round(epochs * last["step"] / last["epoch"]) if last.get("epoch") else most or 0
    total = max(min(whole, most or whole), last["step"])
    seconds = max(sum(row["seconds"] for row in rows), 1e-9)
    left = timedelta(seconds=round((total - last["step"]) * seconds / len(rows)))
    speed = sum(row["tokens"] for row in rows) / seconds
    return {"step": last["step"], "total": total, "speed": f"{speed:,.0f}", "left": left}


def bar(step: int, total: int, said: str) -> str:
    """How much of something is done, as a bar and in words."""
    words = html.escape(said)
    return f'<p class="pace">{words}</p><progress value="{step}" max="{total}" aria-label="{words}"></progress>'


def curves(columns: Mapping[str, Any], titles: Mapping[str, Sequence[str]]) -> str:
    """Pictures of a run's metrics: of each title the keys that are drawn together."""
    pictures = [(title, curve(title, {key: columns[key] for key in keys if key in columns}))
                for title, keys in titles.items()]  # fmt: skip
    return "".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption>{picture}</figure>"
        for title, picture in pictures
        if picture
    )


def answers(rows: Iterable[Mapping[str, Any]], say: Callable[..., str]) -> str:
    """What a model said to held-out rows as it learnt, and what the rows say."""
    asked: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in rows:
        told = asked.setdefault((row["question"], row["reference"]), [])
        told.append((say("runs.step", step=row["step"]), row["answer"]))
    return "".join(
        f"<figure><figcaption>{html.escape(question)}</figcaption><dl>"
        + "".join(
            f"<dt>{html.escape(when)}</dt><dd>{html.escape(said)}</dd>"
            for when, said in [*told[:1], *told[1:][-MOST_ANSWERS:], (say("runs.reference"), reference)]
        )
        + "</dl></figure>"
        for (question, reference), told in asked.items()
    )


def written(folder: Path, output: str) -> str:
    """The pictures and reports in a folder that an output names, as pieces of a page."""
    pieces, home = list[str](), folder.resolve()
    for name in dict.fromkeys(NAMED.findall(_plain(output))):
        file = (home / name).resolve()
        if not (file.is_relative_to(home) and file.is_file() and file.stat().st_size <= MOST_BYTES):
            continue
        if file.suffix == ".md":
            report = Markdown(file.read_text(encoding="utf-8", errors="replace"), code_theme="ansi_dark")
            pieces.append(f'<pre class="report" tabindex="0"><span>{_coloured(report)}</span></pre>')
            continue
        kind = {".svg": "svg+xml", ".png": "png"}[file.suffix]
        data = base64.b64encode(file.read_bytes()).decode()  # a picture runs no script, whatever it holds
        pieces.append(
            f'<img class="written" alt="{html.escape(name, quote=True)}" src="data:image/{kind};base64,{data}">'
        )
    return "".join(pieces)
