"""Every optimizer, in whole runs: it learns, a resumed run equals one that was not interrupted, and who watches it
changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from luthier.config import read_config
from luthier.errors import Interrupted
from luthier.factory import Factory
from luthier.models.output import Forward
from luthier.objectives.base import Objective
from luthier.plugins import names
from tests.invariance.conftest import metrics
from tests.invariance.test_resume import StopAt, tensors

Train = Callable[..., Path]

LORA = {"type": "lora", "dropout": 0.1}
RUNS: dict[str, tuple[Any, Any, float]] = {
    "adamw": (LORA, {"type": "adamw"}, 1e-2),
    "adamw-8bit": ("full", {"type": "adamw-8bit"}, 2e-3),
    "adamw-8bit, lora": (LORA, {"type": "adamw-8bit", "min_8bit_size": 1}, 1e-2),
    "adafactor": ("full", {"type": "adafactor", "beta1": 0.9}, 1e-2),
    "adafactor, scaled": ("full", {"type": "adafactor", "scale_parameter": True}, 1e-1),
    "lion": ("full", {"type": "lion"}, 1e-3),
    "muon": ("full", {"type": "muon"}, 1e-2),
    "muon, lora": (LORA, {"type": "muon"}, 1e-2),
    "schedule-free": ("full", {"type": "schedule-free"}, 1e-2),
    "schedule-free, lora": (LORA, {"type": "schedule-free", "r": 1.0}, 3e-2),
    "galore": ("full", {"type": "galore", "rank": 8, "update_proj_gap": 2}, 1e-2),
    "apollo": ("full", {"type": "apollo", "rank": 8, "update_proj_gap": 2}, 1e-2),
    "apollo, svd": ("full", {"type": "apollo", "rank": 2, "update_proj_gap": 2, "proj": "svd"}, 1e-2),
    "apollo, mini": ("full", {"type": "apollo", "rank": 1, "scale": 128, "scale_type": "tensor"}, 1e-2),
    "badam": ("full", {"type": "badam", "switch_block_every": 3}, 1e-2),
    "badam, random": (
        "full",
        {"type": "badam", "switch_block_every": 2, "switch_mode": "random", "include_embedding_and_head": True},
        1e-2,
    ),
}


def settings(name: str, **more: Any) -> dict[str, Any]:
    adapter, optimizer, rate = RUNS[name]
    return {
        "adapter": adapter,
        "train__optimizer": optimizer,
        "train__learning_rate": rate,
        "train__schedule": "constant",
        "train__weight_decay": 0.1,
        "train__layer_decay": 0.9,
        "train__max_steps": 6,
        "train__micro_batch_size": 4,
        **more,
    }


def test_every_optimizer_is_here() -> None:
    assert {name.partition(",")[0] for name in RUNS} == set(names("optimizer"))


@pytest.mark.parametrize("name", RUNS)
def test_it_learns_and_resumes_exactly(train: Train, name: str) -> None:
    """Six steps against three, a checkpoint, new objects and three more: the same sha256 of every file of tensors."""
    common = settings(name, train__save_every=3, output__keep=9)
    whole = train("whole", **common)
    with pytest.raises(Interrupted):
        train("parts", observers=[StopAt(3)], **common)
    parts = train("parts", **common)
    found = tensors(whole)
    assert tensors(parts) == found and {"checkpoint-3/optimizer.safetensors", "checkpoint-6/optimizer.safetensors"} < (
        found.keys()
    )
    for key in ("loss", "grad_norm", "learning_rate", "held_out_loss"):
        assert metrics(parts, key) == metrics(whole, key)
    losses = metrics(whole)
    assert losses[-1] < losses[0] - 0.1, losses


@pytest.mark.parametrize("name", ["schedule-free", "schedule-free, lora", "badam, random", "muon, lora"])
def test_evaluation_and_saving_do_not_touch_the_run(train: Train, name: str) -> None:
    quiet = train("quiet", **settings(name, train__evaluate_every=None, train__save_every=None))
    busy = train("busy", **settings(name, train__evaluate_every=1, train__save_every=1, output__keep=9))
    assert metrics(quiet) == metrics(busy)
    last = "checkpoint-6/optimizer.safetensors"
    assert tensors(quiet)[last] == tensors(busy)[last]


@pytest.mark.parametrize(
    ("name", "final"), [("schedule-free", "last"), ("schedule-free", "best"), ("schedule-free, lora", "last")]
)
def test_the_average_is_what_is_measured_and_saved(train: Train, name: str, final: str) -> None:
    """At the top of the folder, in checkpoints and in every held-out loss; the weights of training stand beside."""
    rate = RUNS[name][2] * (30 if final == "best" else 1)  # which ruins the last step
    common = settings(name, train__evaluate_every=1, train__save_every=1, output__keep=9, output__final=final)
    folder = train("run", **{**common, "train__learning_rate": rate})
    held, report = metrics(folder, "held_out_loss"), json.loads((folder / "metrics.json").read_text())
    step = report["final_step"]
    assert step == (6 if final == "last" else held.index(min(held)) + 1) and (final == "last") == (step == 6)
    file = "model.safetensors" if name == "schedule-free" else "adapter_model.safetensors"
    assert (folder / file).read_bytes() == (folder / f"checkpoint-{step}" / file).read_bytes()
    assert report["loss"] == held[step - 1] == pytest.approx(loss_of(folder), rel=1e-6)
    memory = load_file(folder / f"checkpoint-{step}" / "optimizer.safetensors")
    trained = {key.removesuffix("|y"): tensor for key, tensor in memory.items() if key.endswith("|y")}
    for key, y in trained.items():
        x = load_file(folder / file)[key.replace(".default", "")]
        assert torch.equal(x, y.lerp(memory[f"{key}|z"], 1 - 1 / 0.9)) and not torch.equal(x, y)


def loss_of(folder: Path) -> float:
    """The held-out loss of a run's folder, loaded as any model."""
    config = read_config(folder / "config.yaml", [f"model.path={folder}", "train.optimizer=adamw"])
    factory, objective = Factory(), cast(Objective, config.objective)
    ready = factory.prepare(config)
    model = factory.models.load(config.model)
    given = (model, Forward(model), objective, ready.data.held_out, ready.layout)
    return factory.evaluator.loss(*given, strategy=config.parallel.open())["loss"]  # type: ignore[attr-defined]
