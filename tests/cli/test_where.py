"""`luthier data where` on two runs, the second of which began from the first."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Said
from tests.cli.test_commands import done
from tests.cli.test_wrong_input import refused
from tests.conftest import chat_rows

Command = Callable[..., Said]


@pytest.fixture
def two(luthier: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = chat_rows(12)
    bad = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]}
    for name, lines in (("a.jsonl", rows), ("b.jsonl", [rows[3], rows[3], bad, *chat_rows(30)[20:]])):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    for name, model, more in (("a", tiny, {}), ("b", "runs/a", {"clean": ["duplicates"], "bad_rows": "drop"})):
        tree = {
            "model": str(model),
            "data": {"train": [f"{name}.jsonl"], "held_out": 0.3 if name == "a" else 0.0, **more},
            "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}, "output": f"runs/{name}",
        }  # fmt: skip
        Path(f"{name}.json").write_text(json.dumps(tree))
        done(luthier("train", f"{name}.json"))


def entry(run: str, line: int) -> dict[str, Any]:
    rows = json.loads(Path(f"runs/{run}/rows.json").read_text())["rows"]
    return dict(next(row for row in rows if row["line"] == line))


def table(luthier: Command, *asked: str) -> list[str]:
    lines = done(luthier("data", "where", *asked)).splitlines()
    return [" ".join(line.split()) for line in lines if line.strip().startswith("runs/")]


@pytest.mark.usefixtures("two")
def test_where_a_row_went(luthier: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(luthier, "b.jsonl:1")
    assert lines[1] == "runs/b b.jsonl:2 dropped: duplicate: says what b.jsonl:1 says"
    assert lines[0].startswith("runs/a a.jsonl:4 learnt in steps ")
    assert lines[2].startswith("runs/b b.jsonl:1 learnt in steps ")
    assert lines[3] == "runs/b through runs/a, which it began from"
    assert table(luthier, entry("b", 1)["content_id"]) == lines, "by its content id, under any name"
    assert table(luthier, "b.jsonl:3") == ["runs/b b.jsonl:3 dropped: empty-answer: message 1 (assistant) says nothing"]
    held = next(n for n in range(1, 13) if entry("a", n)["side"] == "held_out")
    row = Path("a.jsonl").read_text().splitlines()[held - 1]

    class Piped:
        buffer = io.BytesIO(row.encode())

    monkeypatch.setattr("sys.stdin", Piped)
    assert table(luthier, "-")[0] == f"runs/a a.jsonl:{held} held out, never learnt"
    Path("a.jsonl").write_text(json.dumps(chat_rows(40)[39]) + "\n")
    assert table(luthier, "a.jsonl:1")[0] == f"runs/a a.jsonl:1 another row stood there: {entry('a', 1)['content_id']}"


@pytest.mark.usefixtures("two")
def test_what_cannot_be_looked_for(luthier: Command) -> None:
    assert "none of 2 runs below runs and in the index read this row" in done(luthier("data", "where", "0" * 16))
    assert "none of 2 runs" in done(luthier("data", "where", "gone.jsonl:3"))
    refused(luthier("data", "where", "a.jsonl"), "a.jsonl: name a row as file:line, by its content id", "or `-`")
    refused(luthier("data", "where", "a.jsonl:99"), "a.jsonl:99: no row begins on this line", "luthier data show")
    refused(luthier("data", "where", "a.jsonl:1", "--runs", "tiny"), "tiny: no run of Luthier there", "--runs")
