"""What cleaning did, to be read: how many rows each rule changed or dropped, how their scores lie, and examples."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from luthier.data.clean.ledger import Tally

BINS = 20


def write(tally: Tally, folder: Path, *, source: str, cleaners: Sequence[str]) -> None:
    """`report.md` and `report.html` in a folder."""
    (folder / "report.md").write_text(markdown(tally, source=source, cleaners=cleaners), encoding="utf-8")
    (folder / "report.html").write_text(page(tally, source=source, cleaners=cleaners), encoding="utf-8")


def markdown(tally: Tally, *, source: str, cleaners: Sequence[str]) -> str:
    """The report as Markdown."""
    lines = [
        f"# {source}, cleaned", "", f"With {', '.join(cleaners)}: {tally.kept:,} of {tally.read:,} rows kept.", "",
        "| | rows | threshold | scores |", "|---|---|---|---|",
        *(f"| mended by {rule} | {count:,} | | |" for rule, count in tally.mended.most_common()),
        *(f"| dropped: {rule} | {count:,} | {tally.thresholds[rule]:g} | {_spread(tally.scores[rule])} |"
          for rule, count in tally.dropped.most_common()),
    ]  # fmt: skip
    for rule, _ in tally.dropped.most_common():
        lines += ["", f"## {rule}", ""]
        lines += [
            f"* {where}: {detail}\n  `{row.replace('`', chr(39))}`" for where, detail, row in tally.examples[rule]
        ]
    return "\n".join(lines) + "\n"


def _spread(scores: Sequence[float]) -> str:
    ordered = sorted(scores)
    return f"{ordered[0]:.3g} to {ordered[-1]:.3g}, median {ordered[len(ordered) // 2]:.3g}"


def page(tally: Tally, *, source: str, cleaners: Sequence[str]) -> str:
    """The report as one page without scripts or requests; rows are text, whatever they hold."""
    say = html.escape
    body = [f"<h1>{say(source)}, cleaned</h1>", f"<p>With {say(', '.join(cleaners))}: "
            f"<b>{tally.kept:,}</b> of {tally.read:,} rows kept.</p><table>"]  # fmt: skip
    body += [f"<tr><td>mended by {say(rule)}<td>{count:,}</tr>" for rule, count in tally.mended.most_common()]
    body += [f"<tr><td>dropped: {say(rule)}<td>{count:,}</tr>" for rule, count in tally.dropped.most_common()]
    body.append("</table>")
    for rule, _ in tally.dropped.most_common():
        body.append(f"<h2>{say(rule)}</h2>{histogram(tally.scores[rule], tally.thresholds[rule])}")
        for where, detail, row in tally.examples[rule]:
            body.append(f"<details><summary>{say(where)}: {say(detail)}</summary><pre>{say(row)}</pre></details>")
    return (
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{say(source)}, cleaned</title><style>{STYLE}</style>{''.join(body)}"
    )


STYLE = (
    "body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "td{padding:.2rem 1rem .2rem 0}pre{white-space:pre-wrap}svg{display:block;margin:.5rem 0}"
)


def histogram(scores: Sequence[float], threshold: float) -> str:
    """Scores of dropped rows as bars, the threshold as a line."""
    low, high = min(*scores, threshold), max(*scores, threshold)
    if low == high:
        return ""
    counts = [0] * BINS
    for score in scores:
        counts[min(int((score - low) / (high - low) * BINS), BINS - 1)] += 1
    most, at = max(counts), (threshold - low) / (high - low) * 300
    bars = "".join(
        f"<rect x='{15 * n}' y='{60 - 55 * count / most:.1f}' width='14' height='{55 * count / most:.1f}' fill='#47a'/>"
        for n, count in enumerate(counts)
    )
    line = f"<line x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='60' stroke='#c33'/>"
    ends = f"<text x='0' y='75' font-size='12' fill='currentColor'>{low:.3g}</text>"
    ends += f"<text x='300' y='75' font-size='12' text-anchor='end' fill='currentColor'>{high:.3g}</text>"
    return f"<svg width='302' height='80' role='img' aria-label='scores of dropped rows'>{bars}{line}{ends}</svg>"
