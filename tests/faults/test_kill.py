"""`python -m tests.faults.kill`, in short, and that it would say so if something were lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.kill import Moment, differences, main, torture

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "seed"), [("lora", 3), ("grpo", 4)])
def test_killed_again_and_again(tmp_path: Path, kind: str, seed: int) -> None:
    """While it starts, while a checkpoint is written, and behind the last step."""
    said: list[str] = []
    assert not torture(kind, tmp_path, times=3, seed=seed, plan=["saving", "start", "end"], say=said.append), said
    assert len([line for line in said if ": kill " in line]) == 3 and "the same bytes" in said[-1], said
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for name, changed in (
        ("adapter_model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("metrics.jsonl", lambda content: content.replace(b'"epoch": ', b'"epoch": 1')),
        ("metrics.json", lambda content: json.dumps(json.loads(content) | {"loss": 7}).encode()),
    ):
        before = (parts / name).read_bytes()
        (parts / name).write_bytes(changed(before))
        assert [found.split(" ")[0].strip(":") for found in differences(whole, parts)] == [name]
        (parts / name).write_bytes(before)
    last = max(parts.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.copytree(last, parts / ".incomplete-checkpoint-1")
    (last / "optimizer.safetensors").unlink()
    assert differences(whole, parts) == [
        f"{last.name}/optimizer.safetensors", "left behind: .incomplete-checkpoint-1",
    ]  # fmt: skip


def test_one_of_two_processes_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    plan: list[Moment] = ["saving", "end"]
    assert not torture("full", tmp_path, times=2, seed=1, say=said.append, plan=plan, parallel="fsdp"), said
    assert len([line for line in said if " of rank " in line]) == 2, said


def test_a_difference_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tests.faults.kill.torture", lambda kind, *_, **__: ["something"] if kind == "dpo" else [])
    assert main(["--kind", "lora"]) == 0 and main(["--kind", "dpo"]) == 1 and main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: different: dpo"
