"""Kinds of adapters from config to answers, as a user would type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.adapters.kinds import KINDS, Kind
from tests.cli.conftest import Said
from tests.conftest import chat_rows

Command = Callable[..., Said]
SHOWN = ["pissa", "modules", "houlsby", "prefix", "freeze-last", "qlora-4"]
"""One of each way to be saved, loaded and merged; tests/adapters has them all."""


def done(said: Said) -> str:
    assert said.status == 0, said.out + said.err
    return said.out


@pytest.mark.parametrize("name", SHOWN)
def test_train_evaluate_compare_chat_and_merge(
    luthier: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind: Kind = KINDS[name]
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)), encoding="utf-8")
    tree: dict[str, Any] = {"model": str(tiny), "data": {"train": ["rows.jsonl"], "held_out": 0.2}, "output": "run"}
    train = {"max_steps": 4, "batch_size": 4, "learning_rate": kind.rate}
    Path("c.yaml").write_text(yaml.safe_dump(tree | {"adapter": kind.settings, "train": train}), encoding="utf-8")
    out = done(luthier("train", "c.yaml"))
    vocabulary = 400
    assert f"training {kind.trained(vocabulary):,} of " in out
    loss = json.loads(Path("run/metrics.json").read_text())["loss"]
    rows = json.loads(Path("run/rows.json").read_text())["rows"]
    held = [row["line"] for row in rows if row["side"] == "held_out"]
    lines = Path("rows.jsonl").read_text().splitlines(keepends=True)
    Path("held.jsonl").write_text("".join(lines[line - 1] for line in held), encoding="utf-8")
    said = done(luthier("evaluate", "run", "--data", "held.jsonl", "--max-new-tokens", 3))
    assert f"{loss:.4g}" in said, "what evaluation says is what the run has measured"
    assert "held.jsonl" in done(luthier("compare", tiny, "run", "--data", "held.jsonl", "--max-new-tokens", 2))
    assert done(luthier("chat", "run", "--prompt", "What is 3?", "--max-new-tokens", 3))
    merged = luthier("models", "merge", "run", "-o", "merged")
    if kind.merges and kind.settings["type"] not in ("full", "freeze"):
        assert "luthier chat merged" in done(merged)
        again = done(luthier("evaluate", "merged", "--data", "held.jsonl", "--max-new-tokens", 3))
        assert f"{loss:.4g}" in again or kind.bits
    else:
        assert merged.status == 2 and ("cannot be merged" in merged.err or "holds no adapter" in merged.err)
        assert not Path("merged").exists()
