"""Ctrl-C, SIGTERM and kill -9 in the middle of a real run: nothing saved is lost, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.conftest import command, start, tensors, wait_for_step

pytestmark = pytest.mark.slow
FEW = 12


def run(config: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The run to its end, shortened."""
    short = (f"output.dir={folder}", f"train.max_steps={FEW}", *arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command("train", config, *short), capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("devices", [1, 2])
def test_asked_to_stop(config: Path, tmp_path: Path, number: signal.Signals, devices: int) -> None:
    folder = tmp_path / "run"
    process = start("train", config, "--devices", devices)
    wait_for_step(folder, 5, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert err.startswith("stopped after step") and err.count("\n") == 1, err
    assert "continues from there" in err
    stopped = int(err.split("stopped after step ")[1].split(" ")[0])
    assert (folder / f"checkpoint-{stopped}" / "manifest.json").exists()
    assert not (folder / "adapter_model.safetensors").exists()


def test_killed_and_continued_equals_uninterrupted(config: Path, tmp_path: Path) -> None:
    whole = run(config, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    process = start("train", config, f"output.dir={tmp_path / 'parts'}", f"train.max_steps={FEW}")
    wait_for_step(tmp_path / "parts", 5, process)
    process.kill()
    process.communicate()
    rest = run(config, tmp_path / "parts")
    assert rest.returncode == 0, rest.stderr
    assert "continuing from" in rest.stdout
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob(".incomplete-*"))
