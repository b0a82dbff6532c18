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


def markdown(
    tally: Tally, *, source: str, cleaners: Sequence[str], done: str = "cleaned", by: str = "mended by"
) -> str:
    """The report as Markdown."""
    lines = [
        f"# {source}, {done}", "", f"With {', '.join(cleaners)}: {tally.kept:,} of {tally.read:,} rows kept.", "",
        "| | rows | threshold | scores |", "|---|---|---|---|",
        *(f"| {by} {rule} | {count:,} | | |" for rule, count in tally.mended.most_common()),
        *(f"| dropped: {rule} | {count:,} | {tally.thresholds[rule]:g} | {_spread(tally.scores[rule])} |"
          for rule, count in tally.dropped.most_common()),
        *(f"\n{note}" for note in tally.notes),
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
    folder = f"{Path(source).parent}/"

    def say(text: str) -> str:
        return html.escape(text.replace(folder, "") if len(folder) > len("./") else text)

    body = [f"<h1>{say(source)}, cleaned</h1>", f"<p>With {say(', '.join(cleaners))}: "
            f"<b>{tally.kept:,}</b> of {tally.read:,} rows kept.</p><table>"]  # fmt: skip
    body += [f"<tr><td>mended by {say(rule)}<td>{count:,}</tr>" for rule, count in tally.mended.most_common()]
    body += [
        f"<tr><td>dropped: <a href='#{say(rule)}'>{say(rule)}</a><td>{count:,}</tr>"
        for rule, count in tally.dropped.most_common()
    ]
    body += ["</table>", *(f"<p>{say(note)}</p>" for note in tally.notes)]
    for rule, count in tally.dropped.most_common():
        shown = (
            f"{count:,} rows"
            if count <= len(tally.examples[rule])
            else f"first {len(tally.examples[rule])} of {count:,} rows"
        )
        body.append(f"<h2 id='{say(rule)}'>{say(rule)} <small>{shown}</small></h2>")
        body.append(histogram(tally.scores[rule], tally.thresholds[rule]))
        for where, detail, row in tally.examples[rule]:
            body.append(
                f"<details><summary><b>{say(where)}</b> {say(detail)}</summary><pre>{html.escape(row)}</pre></details>"
            )
    return (
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{say(source)}, cleaned</title><style>{STYLE}</style>{''.join(body)}"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}"
    "small{font-weight:normal;opacity:.65}table{border-collapse:collapse}"
    "td{padding:.2rem 2rem .2rem 0;border-bottom:1px solid #8884}td+td{text-align:right;padding-right:0}"
    "summary{padding:.15rem 0;cursor:pointer;overflow-wrap:anywhere}summary b{font-weight:600;margin-right:.5rem}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;background:#8881;padding:.7rem 1rem;margin:.3rem 0}"
    "svg{display:block;margin:.5rem 0}a{color:inherit}"
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
    line = f"<line x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='60' stroke='#c33' stroke-width='2'/>"
    ends = f"<text y='75'>{low:.3g}</text><text x='300' y='75' text-anchor='end'>{high:.3g}</text>"
    told = f"scores of dropped rows; the line is the threshold, {threshold:g}"
    return (
        f"<svg width='302' height='80' fill='currentColor' font-size='12' role='img' aria-label='{told}'>"
        f"{bars}{line}{ends}</svg><small>{told}</small>"
    )
