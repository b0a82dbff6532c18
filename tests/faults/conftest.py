"""Runs of the real command in a process of its own, to be disturbed from outside."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from luthier.train.checkpoint import OPTIMIZER
from luthier.train.optim.saved import TensorFile
from tests.faults.planting import caught, suite

__all__ = ["caught", "suite"]

STEPS = 400
"""More than is ever reached before the disturbance."""


@pytest.fixture
def config(run_config: Callable[..., Any], tmp_path: Path) -> Path:
    """A run of a few seconds that saves every other step."""
    resolved = run_config(train__max_steps=STEPS, train__save_every=2, train__epochs=1000, train__evaluate_every=None)
    (tmp_path / "config.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    return tmp_path / "config.yaml"


def command(*arguments: object) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "luthier", *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command; its output is kept. A group of its own, as a shell would give it."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        process_group=0,
    )


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a run has written that many lines of metrics."""
    file, started = folder / "metrics.jsonl", time.monotonic()
    while not file.exists() or file.read_text(encoding="utf-8").count("\n") < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < 60, "the run does not get on"
        time.sleep(0.02)


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a launcher has started, the first one first."""
    found = psutil.Process(process.pid).children()
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def newest(folder: Path) -> Path:
    """The last checkpoint of a run."""
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def tensors(folder: Path) -> dict[str, str]:
    """sha256 of the tensors of the newest state: of the files at the top of the folder and in the last checkpoint.

    Of what processes have written in pieces, of each whole tensor: the files' own headers come in any order.
    """
    last = newest(folder)
    files = [*folder.glob("*.safetensors"), *last.glob("*.safetensors")]
    found = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if (last / "optimizer").is_dir():
        pieces = TensorFile(last / OPTIMIZER)
        found |= {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in pieces.items()}
    return found
