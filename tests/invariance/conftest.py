"""Running a config to the end and looking at what it left."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def train(tmp_path: Path, run_config: Callable[..., Any]) -> Callable[..., Path]:
    """Trains a tiny run in a folder of its own and returns the folder."""
    return trains_in(tmp_path, run_config)


def trains_in(home: Path, run_config: Callable[..., Any]) -> Callable[..., Path]:
    """What `train` is, below a folder."""
    import luthier

    def run(name: str, *, observers: Sequence[Any] = (), rows: Any = None, **overrides: object) -> Path:
        folder = home / name
        config = run_config(rows, output__dir=str(folder), **overrides)
        luthier.Factory().fine_tune(config, observers=observers)
        return folder

    return run


def metrics(folder: Path, key: str = "loss") -> list[float]:
    """One number per step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def weights(folder: Path) -> dict[str, Any]:
    """The final weights of a run."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (folder / "adapter_model.safetensors").exists() else "model.safetensors"
    return load_file(folder / name)


def farthest(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
