"""Metrics for MLflow, read back by MLflow itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import MissingExtra
from luthier.tracking.mlflow import MLflow
from luthier.tracking.run import RunFolder


def write(folder: Path, steps: range, uri: str | None = None) -> None:
    tracker = MLflow(uri=uri).open(folder)
    tracker.rewind(steps.start - 1)
    for step in steps:
        tracker.log(step, {"loss": 1 / step, "tokens": 100 * step})
    tracker.note(steps.stop - 1, "all was well")
    tracker.close()


@pytest.mark.slow
def test_one_run_of_a_resumed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr("luthier.tracking.mlflow.home", lambda: tmp_path / "home")
    run = RunFolder(tmp_path / "mine")
    run.start({"model": {"path": "tiny"}, "train": {"seed": 3}}, "data", {}, restart=False)
    write(run.path, range(1, 4))
    write(run.path, range(4, 6))
    client: Any = MlflowClient(f"sqlite:///{tmp_path / 'home' / 'mlflow.sqlite'}")
    (found,) = client.search_runs([client.get_experiment_by_name("luthier").experiment_id])
    assert found.info.run_name == "mine" and found.info.status == "FINISHED"
    assert found.data.params == {"model.path": "tiny", "train.seed": "3"}
    assert found.data.tags["luthier.run"] == (run.record() or {})["id"] and found.data.tags["note.5"] == "all was well"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / step) for step in range(1, 6)]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match=re.escape("output.trackers: mlflow needs mlflow, which is not")) as e:
        MLflow().open(tmp_path)
    assert str(e.value).endswith("pip install 'luthier[registry]'")
