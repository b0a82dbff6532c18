"""Ranks by measurement: the sketch against whole gradients, the budget, and runs that keep what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import luthier
from luthier.adapters.base import Run
from luthier.adapters.lora import Lora
from luthier.adapters.lora_init import layers
from luthier.adapters.rank import Measured, _Sketch, choose, measure
from luthier.errors import Interrupted, ModelError, OutOfMemory
from tests.conftest import build_model
from tests.invariance.test_resume import StopAt, tensors

Make = Callable[..., Any]


def batches(model: Any, count: int = 5) -> Any:
    """Losses of random ids, the same each time, as `Run.calibrate` gives them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(3, 200, (2, 9), generator=generator)
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        yield


def run_of(count: int = 5) -> Run:
    return Run(micro_batches=1000, calibrate=lambda model: batches(model, count))


def whole_gradients(count: int) -> dict[str, torch.Tensor]:
    """Of every linear weight of the plain model, summed over the same batches."""
    model = build_model(256)
    linear = {n: m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    sums = {name: torch.zeros_like(weight) for name, weight in linear.items()}
    for _ in batches(model, count):
        for name, weight in linear.items():
            sums[name] += weight.grad
    return sums


def test_the_sketch_is_the_spectrum_of_the_gradient() -> None:
    tuned: Any = Lora(rank=2).attach(build_model(256))
    found = measure(tuned, run_of(), rank=8)
    for name, gradient in whole_gradients(5).items():
        own = found[f"base_model.model.{name}"]
        _, values, directions = torch.linalg.svd(gradient)
        assert torch.allclose(own.values[:4], values[:4], rtol=0.05)
        found_directions = torch.nn.functional.normalize(own.rows[:2])
        overlap = (found_directions @ directions[:2].T).svd().S
        assert overlap.min() > 0.95, name
        taken_off = (gradient @ own.rows.T).abs().sum(0)
        assert torch.allclose(own.gains[:4], taken_off[:4], rtol=0.1), "what a first step of Adam takes off the loss"
        assert (own.inputs, own.outputs) == (gradient.shape[1], gradient.shape[0])


def test_first_rows_answer_as_loudly_as_random_ones() -> None:
    """On inputs of which some numbers are a hundred times the others, as language models have them."""
    generator = torch.Generator().manual_seed(0)
    stretch = torch.ones(60)
    stretch[7] = 100
    linear: Any = torch.nn.Linear(60, 20, bias=False)
    linear.get_base_layer = lambda: linear
    sketch = _Sketch(linear, 8)
    given = [
        (torch.randn(90, 60, generator=generator) * stretch, torch.randn(90, 20, generator=generator)) for _ in "123"
    ]
    for second in (False, True):
        if second:
            sketch.settle()
        for inputs, slope in given:
            sketch.add(inputs, slope)
    everything = torch.cat([inputs for inputs, _ in given])
    random = torch.nn.init.kaiming_uniform_(torch.empty(2000, 60), a=5**0.5, generator=generator)  # as peft does
    loud, usual = ((everything @ rows.T).pow(2).mean(0) for rows in (sketch.measured().rows, random))
    assert torch.allclose(loud, usual.mean().expand_as(loud), rtol=0.15)


def test_measuring_leaves_nothing_behind() -> None:
    tuned: Any = Lora(rank=2).attach(build_model(256))
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    measure(tuned, run_of(), rank=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.state_dict().items())
    assert not any(module._forward_hooks for module in tuned.modules())


def test_no_more_than_its_share_of_the_run() -> None:
    """Two passes of at most 16 micro-batches, a twentieth of the run in all; at least two to look at."""
    for micro_batches, each in ((10_000, 16), (200, 5), (0, 2)):
        asked = []

        def calibrate(model: Any, asked: list[int] = asked) -> Any:
            for _ in batches(model, 99):
                asked.append(1)
                yield

        tuned: Any = Lora(rank=2).attach(build_model(256))
        measure(tuned, Run(micro_batches=micro_batches, calibrate=calibrate), rank=2)
        assert len(asked) == 2 * each


def layer(values: list[float], inputs: int = 10, outputs: int = 10) -> Measured:
    found = torch.tensor(values)
    return Measured(inputs, outputs, found, float(found.pow(2).sum()), torch.zeros(len(values), inputs), found)


def test_directions_are_bought_by_worth_for_money() -> None:
    flat, steep = layer([1.0] * 8), layer([10.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert choose({"flat": flat, "steep": steep}, rank=4) == {"flat": 7, "steep": 1}
    cheap, dear = layer([2.0, 2.0]), layer([2.0, 2.0], outputs=90)
    assert choose({"cheap": cheap, "dear": dear}, rank=1) == {"cheap": 2, "dear": 0}


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_the_budget_is_kept(rank: int) -> None:
    tuned: Any = Lora(rank="auto", rank_budget=rank).attach(build_model(256), run_of())
    uniform: Any = Lora(rank=rank).attach(build_model(256))
    count, most = (sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (tuned, uniform))
    dearest = 64 + 128
    assert most - dearest < count <= most


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha": 5.0}])
def test_step_0_is_the_base_and_every_layer_has_one_scale(settings: dict[str, Any]) -> None:
    base = build_model(256).eval()
    ids = torch.arange(3, 12)[None]
    before = base(input_ids=ids).logits
    tuned: Any = Lora(rank="auto", rank_budget=4, **settings).attach(base, run_of())
    assert torch.equal(tuned(input_ids=ids).logits, before)
    uniform: Any = Lora(rank=4, **settings).attach(build_model(256))
    wanted = next(module.scaling["default"] for _, module in layers(uniform))
    assert all(module.scaling["default"] == pytest.approx(wanted) for _, module in layers(tuned))


def test_rows_without_gradients_are_refused() -> None:
    with pytest.raises(ModelError, match=r"adapter\.rank: auto found no gradient in the training rows"):
        Lora(rank="auto").attach(build_model(256), Run())


def test_it_goes_with_its_own_start_only() -> None:
    with pytest.raises(ValidationError, match="rank: auto measures its own first values; leave init_lora_weights out"):
        Lora(rank="auto", init_lora_weights="pissa")


AUTO = {"type": "lora", "rank": "auto", "rank_budget": 4, "dropout": 0.1}


def test_a_run_keeps_its_ranks(run_config: Make, tmp_path: Path) -> None:
    """Resumed as uninterrupted, in the report, in plain peft, and from run to run."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    common = {"adapter": AUTO, "train__max_steps": 5}
    whole = run_config(output=str(tmp_path / "whole"), **common)
    model, _ = luthier.Factory().fine_tune(whole)
    parts = run_config(output=str(tmp_path / "parts"), **common)
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(parts, observers=[StopAt(2)])
    luthier.Factory().fine_tune(parts)
    mine, right = tensors(tmp_path / "parts"), tensors(tmp_path / "whole")
    assert {n: mine[n] for n in right if "-2/" not in n} == {n: h for n, h in right.items() if "-2/" not in n}
    ranks = json.loads((tmp_path / "parts" / "ranks.json").read_text())
    assert ranks == json.loads((tmp_path / "whole" / "ranks.json").read_text())
    assert len({own["rank"] for own in ranks.values()}) > 1
    report = (tmp_path / "parts" / "report.md").read_text()
    assert "## Ranks" in report and "| model.layers.0.self_attn.q_proj |" in report
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(whole.model.path), str(tmp_path / "whole"))
    ids = torch.arange(3, 12)[None]
    assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)
    again = run_config(output=str(tmp_path / "again"), model=str(tmp_path / "whole"), **common)
    luthier.Factory().fine_tune(again)
    assert json.loads((tmp_path / "again" / "ranks.json").read_text()) == ranks


def test_online_rows_teach_nothing_before_they_are_answered(online: Make) -> None:
    (finding,) = [
        f
        for f in luthier.Factory().check(online("grpo", adapter={"type": "lora", "rank": "auto"})).report.findings
        if f.level == "error"
    ]
    assert "rank: auto measures gradients of rows, and those of grpo have no answers" in finding.message


@pytest.mark.parametrize("settings", [{"rank": "auto"}, {"rank": 2, "init_lora_weights": "eva"}], ids=str)
def test_measured_with_a_teacher(run_config: Make, tiny: Path, settings: dict[str, Any]) -> None:
    config = run_config(objective={"type": "distill", "teacher": str(tiny)}, adapter={"type": "lora", **settings})
    with pytest.raises(ModelError, match="found no gradient") if settings["rank"] == "auto" else nullcontext():
        luthier.Factory().fine_tune(config)  # a model says already what it would learn from itself


def test_a_value_head_is_no_hindrance_to_eva(online: Make) -> None:
    config = online("ppo", adapter={"type": "lora", "rank": 2, "init_lora_weights": "eva"}, train__max_steps=2)
    luthier.Factory().fine_tune(config)


def test_conv1d_layers() -> None:
    """GPT-2 keeps its weights the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    tuned: Any = Lora(rank="auto", rank_budget=2, target_modules=["c_attn"]).attach(model, run_of())
    sizes = {name.rsplit(".", 1)[-1]: (layer.in_features, layer.out_features) for name, layer in layers(tuned)}
    assert sizes["c_attn"] == (32, 96)
    for _, layer in layers(tuned):
        assert layer.lora_A["default"].weight.shape[1] == layer.in_features


def test_embeddings_are_refused() -> None:
    with pytest.raises(ModelError, match=r"measures linear layers, and model\.embed_tokens is none; write a number"):
        Lora(rank="auto", target_modules=["embed_tokens", "q_proj"]).attach(build_model(256), run_of())


@pytest.mark.parametrize("settings", [{"rank": "auto"}, {"rank": 2, "init_lora_weights": "eva"}], ids=str)
def test_memory_that_ends_while_rows_are_measured(
    run_config: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    def passed(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("luthier.assembly.Assembly._passed", passed)
    with pytest.raises(OutOfMemory, match=r"while adapter \(lora\) measured the training rows, \d+ tokens at once"):
        luthier.Factory().fine_tune(run_config(adapter={"type": "lora", **settings}))
