"""Tasks of lm-evaluation-harness, offline, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.errors import DataError, UserError

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six questions with options, as a task of one's own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"What is {n}?", "choices": [f"It is {n}.", "No."], "answer": n % 2} for n in range(6)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = {
        "task": "luthier_six", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    file = tmp_path / "six.yaml"
    file.write_text(yaml.safe_dump(told), encoding="utf-8")
    return file


def asked(*words: str) -> str:
    return CliRunner().invoke(app, ["evaluate", *words], catch_exceptions=False).stdout


def test_a_task_of_ones_own_says_what_choice_says(tiny: Path, task: Path) -> None:
    """The same accuracies, by its code and by ours."""
    theirs = asked(str(tiny), "--harness", str(task))
    assert "luthier_six" in theirs and "acc_norm" in theirs
    rows = [json.loads(line) for line in (task.parent / "rows.json").read_text(encoding="utf-8").splitlines()]
    ours = task.parent / "ours.jsonl"
    ours.write_text("\n".join(json.dumps({"question": r["q"], **r}) for r in rows), encoding="utf-8")
    found = asked(str(tiny), "--data", str(ours), "--metrics", "", "--set", "choice.by=text")
    values = {line.split()[0]: line.split()[1] for line in theirs.splitlines() if line.strip().startswith("acc")}
    for name in ("acc", "acc_norm"):
        assert any(line.split()[:2] == [name, values[name]] for line in found.splitlines()), (theirs, found)


def test_what_there_is_not(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no task 'no_such_task'"):
        asked(str(tiny), "--harness", "no_such_task")
    (tmp_path / "empty.yaml").write_text("dataset_path: json\n", encoding="utf-8")
    with pytest.raises(DataError, match="says no `task`"):
        asked(str(tiny), "--harness", str(tmp_path / "empty.yaml"))
    with pytest.raises(UserError, match=r"is no run.*--data FILE"):
        asked(str(tiny))
