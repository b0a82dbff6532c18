"""AdaLoRA: the schedule, what is given up and when, the penalty, and that a run can be cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters.adalora import AdaLora
from luthier.adapters.base import Run
from luthier.errors import ConfigError, Interrupted, ModelError
from luthier.models.output import Forward
from luthier.train.observers.base import Observer, Progress
from tests.adapters.conftest import rows

IDS = torch.arange(3, 40)[None]


@pytest.mark.parametrize(
    ("settings", "total", "expected"),
    [
        ({}, 1000, (100, 300, 10)),
        ({}, 50, (5, 15, 1)),
        ({}, 3, (1, 0, 1)),
        ({"tinit": 7, "tfinal": 2, "deltaT": 3}, 20, (7, 2, 3)),
        ({"tinit": 0, "tfinal": 0}, 20, (1, 0, 1)),
    ],
    ids=str,
)
def test_the_schedule_follows_the_length_of_the_run(settings: Any, total: int, expected: tuple[int, int, int]) -> None:
    assert AdaLora(**settings).schedule(total) == expected


def test_what_cannot_work_is_refused(run_config: Callable[..., Any], model: Any) -> None:
    with pytest.raises(ConfigError, match=r"target_r \(12\) must be below init_r \(12\); for one rank, write lora"):
        run_config(adapter={"type": "adalora", "target_r": 12})
    with pytest.raises(ModelError, match="tinit 1 and tfinal 0 leaves no step to choose ranks in a run of 1"):
        AdaLora().attach(model, Run(total_steps=1))
    with pytest.raises(ModelError, match="tinit 5 and tfinal 6 leaves no step to choose ranks in a run of 10"):
        AdaLora(tinit=5, tfinal=6).attach(model, Run(total_steps=10))


def singular(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(-1) for name, p in model.named_parameters() if "lora_E" in name}


def trained(model: Any, part: AdaLora, batch: Any, steps: int) -> list[int]:
    """Values that are left after each step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    left = []
    for step in range(1, steps + 1):
        (-Forward(model)(model.train(), batch).logprobs(batch.targets).mean() + part.penalty(model)).backward()
        part.before_step(model, step)
        optimizer.step()
        optimizer.zero_grad()
        part.after_step(model, step)
        left.append(sum(int((value != 0).sum()) for value in singular(model).values()))
    return left


def test_ranks_shrink_to_the_target_and_stay(model: Any, padded: Callable[..., Any]) -> None:
    part = AdaLora(init_r=6, target_r=2, tinit=2, tfinal=4, deltaT=2)
    tuned = part.attach(model, Run(total_steps=12))
    left = trained(tuned, part, padded(*rows(12, 20)), 12)
    every = 14 * 6
    budget = [int(every * 2 / 3 * (1 - (step - 2) / 6) ** 3 + every / 3) for step in range(1, 13)]
    assert left[:3] == [every] * 3, "nothing is given up in the beginning"
    assert (left[3], left[5], left[7]) == (budget[3], budget[5], 28)
    assert left[8:] == [28] * 4, "what was given up last stays so"
    kept = {len(value.nonzero()) for value in singular(tuned).values()}
    assert len(kept) > 1, "ranks differ"


def test_the_least_important_go_first(model: Any, padded: Callable[..., Any]) -> None:
    """By the definition: s(E_i) + mean s(A_i) + mean s(B_i), each smoothed sensitivity x smoothed uncertainty."""
    part = AdaLora(init_r=4, target_r=2, tinit=2, tfinal=0, deltaT=1, alpha=40)
    tuned = part.attach(model, Run(total_steps=3))
    batch = padded(*rows(12, 20))
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    smooth: dict[str, torch.Tensor] = {}
    unsure: dict[str, torch.Tensor] = {}
    for step in (1, 2, 3):
        (-Forward(tuned)(tuned.train(), batch).logprobs(batch.targets).mean() + part.penalty(tuned)).backward()
        for name, p in tuned.named_parameters():
            if p.requires_grad:
                now = (p * p.grad).abs().detach()
                smooth[name] = 0.85 * smooth.get(name, torch.zeros_like(now)) + 0.15 * now
                unsure[name] = 0.85 * unsure.get(name, torch.zeros_like(now)) + 0.15 * (now - smooth[name]).abs()
        part.before_step(tuned, step)
        optimizer.step()
        optimizer.zero_grad()
        before = singular(tuned)
        part.after_step(tuned, step)
    scores = {}
    for name in before:
        s = {
            k: smooth[name.replace("lora_E", k)] * unsure[name.replace("lora_E", k)]
            for k in ("lora_A", "lora_B", "lora_E")
        }
        scores[name] = s["lora_E"].view(-1) + s["lora_A"].mean(1) + s["lora_B"].mean(0)
    cut = torch.cat(list(scores.values())).sort().values[14 * 2 - 1]
    for name, value in singular(tuned).items():
        assert torch.equal(value, torch.where(scores[name] > cut, before[name], 0.0)), name


def test_the_penalty_is_that_of_peft(model: Any) -> None:
    part = AdaLora(init_r=4, target_r=2, orth_reg_weight=0.7)
    tuned: Any = part.attach(model, Run(total_steps=50))
    whole = tuned(IDS, labels=IDS, use_cache=False).loss
    with torch.no_grad():
        alone = tuned.get_base_model()(IDS, labels=IDS, use_cache=False).loss
    found = part.penalty(tuned)
    assert found is not None and float(found) == pytest.approx(float(whole - alone), rel=1e-4)
    assert AdaLora(orth_reg_weight=0).penalty(tuned) is None


class Watch(Observer):
    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.seen = stop, list[Progress]()

    def on_step(self, progress: Progress) -> bool:
        self.seen.append(progress)
        return progress.state.step == self.stop


def test_the_penalty_counts_once_a_step(run_config: Callable[..., Any], tmp_path: Path) -> None:
    """However the step is cut; and the loss that is shown is without it."""
    adapter = {"type": "adalora", "init_r": 4, "target_r": 2, "orth_reg_weight": 5.0}
    found = []
    for name, size in (("ones", 1), ("eight", 8)):
        config = run_config(
            adapter=adapter, output__dir=str(tmp_path / name), data__packing=False, train__micro_batch_size=size
        )
        luthier.Factory().fine_tune(config, observers=[watch := Watch()])
        found.append(watch.seen)
    for one, eight in zip(*found, strict=True):
        assert one.loss == pytest.approx(eight.loss, rel=1e-6) and one.grad_norm == pytest.approx(
            eight.grad_norm, rel=1e-4
        )
        assert (
            one.metrics["penalty"] == pytest.approx(eight.metrics["penalty"], rel=1e-6) and one.metrics["penalty"] > 1
        )
    plain = run_config(adapter=adapter | {"orth_reg_weight": 0}, output__dir=str(tmp_path / "plain"))
    luthier.Factory().fine_tune(plain, observers=[watch := Watch()])
    assert watch.seen[0].loss == pytest.approx(found[0][0].loss, rel=1e-6) and "penalty" not in watch.seen[0].metrics
    assert watch.seen[0].grad_norm < found[0][0].grad_norm


@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_a_run_can_be_cut_anywhere(run_config: Callable[..., Any], tmp_path: Path, stop: int) -> None:
    """Before, between and after the choices."""
    adapter = {"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "alpha": 40}
    common = {
        "adapter": adapter,
        "train__max_steps": 10,
        "train__epochs": 9,
        "train__learning_rate": 0.02,
        "data__held_out": 0.0,
    }
    runs = []
    for name in ("whole", "parts"):
        config = run_config(**common, output__dir=str(tmp_path / name))
        if name == "parts":
            with pytest.raises(Interrupted):
                luthier.Factory().fine_tune(config, observers=[Watch(stop)])
        luthier.Factory().fine_tune(config)
        last = tmp_path / name / "checkpoint-10"
        files = ("adapter_model.safetensors", "optimizer.safetensors", "adalora.safetensors")
        runs.append([(last / file).read_bytes() for file in files])
    assert runs[0] == runs[1]
    assert json.loads((tmp_path / "whole" / "adapter_config.json").read_text())["rank_pattern"] is None


def test_saving_does_not_touch_the_run(model: Any, padded: Callable[..., Any], tmp_path: Path) -> None:
    part = AdaLora(init_r=6, target_r=2, tinit=2, tfinal=2, deltaT=2)
    model.name_or_path = "base"
    batch, run = padded(*rows(12, 20)), Run(total_steps=8)

    class Saving(AdaLora):
        def after_step(self, model: Any, step: int) -> None:
            super().after_step(model, step)
            self.checkpoint(model, tmp_path)

    results = []
    for each in (part, Saving(**part.model_dump())):
        torch.manual_seed(0)
        tuned = each.attach(deepcopy(model), run)
        results.append((trained(tuned, each, batch, 8), singular(tuned)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
