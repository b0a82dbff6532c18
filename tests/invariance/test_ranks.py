"""Two processes learn what one learns, through the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.invariance.conftest import farthest, metrics, weights


def command(config: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "luthier", "train", str(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter", ["full", {"type": "lora", "init_lora_weights": "eva", "rank": 4}], ids=["full", "eva"]
)
def test_two_processes_equal_one(run_config: Callable[..., Any], tmp_path: Path, adapter: Any) -> None:
    """Unequal rows, packed, several micro-batches a rank, a last step of one row, held-out loss on the way."""
    rate = 1e-4 if adapter == "full" else 1e-3
    config = run_config(
        adapter=adapter,
        train__learning_rate=rate,
        train__batch_size=6,
        train__max_steps=5,
        train__micro_batch_tokens=80,
        output__per_process=True,
    )
    file = tmp_path / "resolved.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    command(file, f"output.dir={tmp_path / 'one'}")
    command(file, f"output.dir={tmp_path / 'two'}", "--devices", "2")
    for key in ("loss", "grad_norm", "held_out_loss"):
        assert metrics(tmp_path / "two", key) == pytest.approx(metrics(tmp_path / "one", key), rel=1e-5)
    assert metrics(tmp_path / "two", "units") == metrics(tmp_path / "one", "units")
    for name, ranks in (("one", 1), ("two", 2)):  # what each process holds and does
        lines = map(json.loads, (tmp_path / name / "processes.jsonl").read_text(encoding="utf-8").splitlines())
        for line in lines:
            assert len(line["peak_memory_bytes"]) == ranks and min(line["peak_memory_bytes"]) > 1e8
            assert all(used > 0 for used in line["cpu_seconds"]) and all(taken > 0 for taken in line["seconds"])
    for file in ("steps.jsonl", "rows.json"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
    assert farthest(weights(tmp_path / "two"), weights(tmp_path / "one")) < 2e-5
