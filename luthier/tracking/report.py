"""`report.md`: what was trained on what, how it went, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.system.files import write_text


def write_report(folder: Path, title: str, sections: Sequence[tuple[str, Mapping[str, object] | str]]) -> None:
    """Write the report; a mapping becomes a table of two columns."""
    lines = [f"# {title}", ""]
    for heading, body in sections:
        lines += [f"## {heading}", ""]
        lines += [body] if isinstance(body, str) else table(body)
        lines.append("")
    write_text(folder / "report.md", "\n".join(lines))


def table(values: Mapping[str, object]) -> list[str]:
    """A Markdown table of names and values."""
    rows = [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return ["| | |", "|---|---|", *rows]


def _shown(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
