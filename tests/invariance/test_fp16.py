"""Whole runs in fp16, on the CPU in place of the GPU that users need: torch can, if slowly."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luthier import assembly, factory
from luthier.errors import Interrupted, TrainingError, UserError
from luthier.factory import Factory
from luthier.train.scaling import LossScaler
from tests.invariance.conftest import metrics
from tests.invariance.test_optimizers import RUNS, settings
from tests.invariance.test_resume import StopAt, tensors

Train = Callable[..., Path]


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this machine had a GPU."""
    for place in (assembly, factory):
        monkeypatch.setattr(place, "choose_precision", lambda setting, device: setting)


def scale(monkeypatch: pytest.MonkeyPatch, first: float) -> None:
    monkeypatch.setattr(assembly, "LossScaler", partial(LossScaler, scale=first))


LORA = {"adapter": {"type": "lora", "dropout": 0.1}}
FULL: dict[str, Any] = {"adapter": "full", "train__learning_rate": 1e-3}


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "full"])
def test_it_learns_as_fp32_does(fp16: None, train: Train, settings: dict[str, Any]) -> None:
    half = train("half", train__precision="fp16", **settings)
    single = train("single", train__precision="fp32", **settings)
    assert metrics(half) == pytest.approx(metrics(single), rel=2e-3) and metrics(half) != metrics(single)
    assert metrics(half, "grad_norm") == pytest.approx(metrics(single, "grad_norm"), rel=2e-2)
    assert metrics(half, "loss_scale") == [65536.0] * 4 and metrics(half, "skipped_steps") == [0] * 4
    assert not metrics(single, "loss_scale")


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "full"])
def test_overflows_are_skipped_counted_and_resumed(
    fp16: None, train: Train, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The first steps overflow; a run that was stopped among them ends with the same bytes."""
    scale(monkeypatch, 2.0**22)
    common = {"train__precision": "fp16", "train__max_steps": 7, "train__save_every": 1, "output__keep": 9, **settings}
    whole = train("whole", **common)
    skipped = metrics(whole, "skipped_steps")
    assert skipped[:2] == [1, 2] and skipped[-1] < 6, "the first steps overflow, not all do"
    assert metrics(whole, "loss_scale") == [2.0**22 / 2**count for count in skipped]
    found = tensors(whole)
    weights = "model.safetensors" if settings is FULL else "adapter_model.safetensors"
    states = [found[f"checkpoint-{step}/{weights}"] for step in range(1, 8)]
    for step in range(1, 7):
        same = states[step] == states[step - 1]
        assert same == (skipped[step] > skipped[step - 1]), "what is skipped changes nothing, all else does"

    with pytest.raises(Interrupted):
        train("parts", observers=[StopAt(2)], **common)
    parts = train("parts", **common)
    assert tensors(parts) == found
    for key in ("loss", "skipped_steps", "loss_scale", "learning_rate", "held_out_loss"):
        assert metrics(parts, key) == metrics(whole, key)
    saved = [json.loads((folder / "checkpoint-7" / "scaler.json").read_text()) for folder in (whole, parts)]
    assert saved[0] == saved[1] and saved[0]["skipped"] == skipped[-1]


@pytest.mark.parametrize("name", [name for name in RUNS if "," not in name])
def test_every_optimizer(fp16: None, train: Train, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It sees gradients without the scale, and nothing of a step that overflows."""
    common = settings(name, train__max_steps=3, train__learning_rate=RUNS[name][2] / 10)
    half, single = train("half", **common, train__precision="fp16"), train("single", **common, train__precision="fp32")
    assert metrics(half) == pytest.approx(metrics(single), rel=1e-2)
    assert metrics(half, "grad_norm") == pytest.approx(metrics(single, "grad_norm"), rel=5e-2)
    scale(monkeypatch, 2.0**60)
    over = train("over", **common, train__precision="fp16", train__save_every=1, output__keep=9)
    assert metrics(over, "skipped_steps") == [1, 2, 3]
    found = {
        step: {k: v for k, v in tensors(over / f"checkpoint-{step}").items() if "random" not in k} for step in (1, 3)
    }
    assert found[1] == found[3]


def test_what_no_scale_mends_stops_the_run(fp16: None, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, 1.0)
    with pytest.raises(TrainingError, match=r"step 2 was skipped: loss (nan|inf)"):
        train("run", train__precision="fp16", train__learning_rate=1e30, train__max_grad_norm=None, **LORA)


def test_fp16_on_a_cpu_is_refused_before_the_model_is_loaded(
    run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    made = Factory()
    monkeypatch.setattr(made.models, "load", loaded)
    for run in (made.fine_tune, made.check):
        with pytest.raises(UserError, match=r"train\.precision: fp16 needs a GPU: .* write fp32 or auto"):
            run(run_config(train__precision="fp16"))
