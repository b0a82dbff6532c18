"""What is computed is held against what is meant, on few tokens, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.assembly import Assembly
from luthier.data.render import Tokens
from luthier.factory import Factory
from luthier.models.output import Forward
from luthier.train import proof
from luthier.train.proof import WINDOW, check_optimizer, check_training
from tests.conftest import chat_rows
from tests.objectives.conftest import labelled_rows, pair_rows, prompt_rows
from tests.train.conftest import Make

REGEX = {"type": "ppo", "rewards": [{"type": "regex", "pattern": "x"}], "max_new_tokens": 4, "samples": 2}
VARIED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "sft": (chat_rows(9), {"adapter": {"type": "lora", "dropout": 0.1}}),
    "weights": ([{"messages": [{**m, "weight": 0.3} for m in row["messages"]]} for row in chat_rows(9)], {}),
    "dpo": (pair_rows(9), {"objective": "dpo"}),
    "kto": (labelled_rows(9), {"objective": "kto", "data__packing": False}),
    "reward": (pair_rows(9), {"objective": "reward"}),
    "prompts only": (prompt_rows(9), {"objective": REGEX, "adapter": "full", "train__learning_rate": 1e-5}),
    "virtual tokens": (chat_rows(9), {"adapter": {"type": "prompt", "num_virtual_tokens": 4}}),
    "half precision": (chat_rows(9), {"train__precision": "bf16"}),
    "half weights": (chat_rows(9), {"model__dtype": "bfloat16"}),
    "noise": (chat_rows(9), {"objective": {"type": "sft", "neftune_noise_alpha": 5}}),
    "4 bits": (chat_rows(9), {"adapter": "qlora"}),
    "8 bits": (chat_rows(9), {"adapter": {"type": "qlora", "bits": 8}}),
}


def parts(config: Any) -> tuple[Any, Any, Any, Any]:
    """What `check_training` is given in a run."""
    job, layout = built(config)
    return job.trained.model, job.forward, job.loader.examples, layout


def built(config: Any) -> tuple[Any, Any]:
    """The job of a run, and its layout."""
    factory = Factory()
    ready = factory.prepare(config)
    assembly = Assembly(config, ready, config.parallel.open(), models=factory.models, evaluator=factory.evaluator)
    job = assembly.job()
    assert assembly.findings == []
    return job, ready.layout


@pytest.mark.parametrize("kind", VARIED)
def test_nothing_is_found_and_nothing_left_behind(run_config: Make, kind: str) -> None:
    rows, overrides = VARIED[kind]
    given = parts(run_config(rows, **overrides))
    model = given[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention = model.config._attn_implementation
    assert check_training(*given) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert model.config._attn_implementation == attention


def test_a_weight_that_the_optimizer_has_not(run_config: Make) -> None:
    job, _ = built(run_config())
    model, optimizer = job.trained.model, job.trained.optimizer
    assert check_optimizer(model, optimizer) == []
    optimizer.param_groups[0]["params"].pop()
    (found,) = check_optimizer(model, optimizer)
    assert found.name == "optimizer" and found.message.startswith("1 weights are to be trained that the optimizer")


def test_a_run_is_as_without_it(run_config: Make, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it draws random numbers."""
    common = {"adapter": {"type": "lora", "dropout": 0.1}, "train__max_steps": 2}
    luthier.Factory().fine_tune(run_config(output=str(tmp_path / "with"), **common))
    monkeypatch.setattr("luthier.assembly.check_training", lambda *_: [])
    luthier.Factory().fine_tune(run_config(output=str(tmp_path / "without"), **common))
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("length", "first"), [(40, 30), (400, 1), (400, 300), (400, 399), (400, None)])
def test_long_rows_cost_no_more(length: int, first: int | None) -> None:
    """A window around the first supervised token; where there is none, everything counts."""
    weights = np.zeros(length, dtype=np.float32)
    weights[first:] = 0.5 if first else 0.0
    tokens = proof._window(Tokens(np.arange(length, dtype=np.int32), weights))
    assert len(tokens) <= 2 * WINDOW and tokens.weights[0] == 0 and tokens.supervised
    kept = weights[tokens.ids] if first else np.ones(len(tokens))
    assert np.array_equal(tokens.weights[1:], kept[1:]) and (not first or first in tokens.ids[1:])


def test_only_short_passes_are_made(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "abc " * 60}, {"role": "assistant", "content": f"{i} qz" * 60}]}
        for i in range(6)
    ]
    given = parts(run_config(rows, data__max_length=500))
    seen, real = [], Forward.__call__

    def call(self: Forward, model: Any, batch: Any) -> Any:
        seen.append(max(segment.length for segment in batch.segments))
        return real(self, model, batch)

    monkeypatch.setattr(Forward, "__call__", call)
    check_training(*given)
    assert seen and max(seen) <= 2 * WINDOW


def test_too_little_memory_is_the_loops_to_explain(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parts(run_config())

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Forward, "__call__", fail)
    assert check_training(*given) == []


def test_half_of_a_gradient_is_missed(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every weight has one: here that of one layer is halved on its way."""
    from luthier.models import output

    real = output.label_logprobs  # type: ignore[attr-defined]

    def halved(hidden: Any, *given: Any, **settings: Any) -> Any:
        return real(hidden.detach() + (hidden - hidden.detach()) / 2, *given, **settings)

    given = parts(run_config())
    monkeypatch.setattr(output, "label_logprobs", halved)
    (found,) = check_training(*given)
    assert found.name == "gradients" and "not those of the definition" in found.message


def test_a_reference_that_dropout_touched(run_config: Make) -> None:
    """A few hundredths of a nat are enough."""
    model, forward, examples, layout = parts(run_config(pair_rows(9), objective="dpo"))
    generator = np.random.default_rng(0)

    def touched(example: Any) -> Any:
        column = example.columns["reference"]
        noise = generator.normal(0, 0.03, len(column)).astype(np.float32)
        return replace(example, columns={"reference": column + noise})

    (found,) = check_training(model, forward, [*map(touched, examples)], layout)
    assert found.name == "reference" and "at step 0 they must be the same" in found.message
