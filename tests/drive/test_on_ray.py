"""Ray Train starts the processes; what they do is what they do anyway."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.drive.on_ray import launch_on_ray
from luthier.errors import LuthierError
from tests.faults.conftest import start
from tests.invariance.conftest import farthest, metrics, weights

pytest.importorskip("ray.train")
pytestmark = pytest.mark.slow


def run(*arguments: object) -> tuple[int, str]:
    """Status and errors of the command."""
    process: subprocess.Popen[str] = start("train", *arguments)
    _, errors = process.communicate(timeout=500)
    return process.returncode, errors


def test_two_workers_learn_what_one_process_learns(run_config: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(run_config(train__max_steps=4, train__batch_size=6).to_yaml(), encoding="utf-8")
    for name, more in (("one", ()), ("two", ("--devices", 2, "--on", "ray"))):
        status, errors = run(file, f"output.dir={tmp_path / name}", *more)
        assert status == 0, errors
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), rel=1e-5)
    assert farthest(weights(tmp_path / "two"), weights(tmp_path / "one")) < 2e-5


@pytest.mark.parametrize(
    ("status", "restarts", "attempts"), [(137, 2, [0, 1, 2]), (137, 0, [0]), (2, 2, [0]), (None, 1, [0, 1])]
)
def test_all_are_started_again(
    monkeypatch: pytest.MonkeyPatch, status: int | None, restarts: int, attempts: list[int]
) -> None:
    """Each time with its number, so that --restart begins anew once only; not where it would end so again."""
    tried: list[int] = []

    class Trainer:
        def __init__(self, _: object, *, train_loop_config: dict[str, Any], scaling_config: object) -> None:
            tried.append(train_loop_config["attempt"])

        def fit(self) -> None:
            raise RuntimeError("a machine is gone" if status is None else f"rank 1: luthier ended with {status}: so")

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    for name in ("init", "shutdown"):
        monkeypatch.setattr(f"ray.{name}", lambda **_: None)
    with pytest.raises(LuthierError, match="a machine is gone" if status is None else f"ended with {status}: so"):
        launch_on_ray(2, ["train", "x.yaml"], restarts=restarts)
    assert tried == attempts


def test_what_a_worker_says_is_the_message(run_config: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(run_config().to_yaml(), encoding="utf-8")
    status, errors = run(file, "parallel={type: tensor, tensor: 3}", "--devices", 2, "--on", "ray")
    assert status == 1 and "tensor 3 does not divide 2 processes" in errors and "Traceback" not in errors, errors
