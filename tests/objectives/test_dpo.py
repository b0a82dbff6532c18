"""DPO against its definitions in float64, through real batches; and whole runs from the reference column on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import luthier
from luthier.data.conversation import Origin, Row
from luthier.data.formats.base import named
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.render import Renderer
from luthier.models.load import _use_segment_attention
from luthier.models.output import Forward
from luthier.objectives.dpo import Dpo
from luthier.train.observers.base import Observer, Progress
from tests.conftest import build_model


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Questions with a better and a worse answer, of unequal lengths."""
    return [
        {"prompt": f"What is {i}?" + " Say more." * (i % 3), "chosen": f"It is {i}." + " Yes." * (i % 4),
         "rejected": f"No idea about {i}" + ", really" * (i % 5)}
        for i in range(count)
    ]  # fmt: skip


def examples(tokenizer: Any, count: int) -> list[Example]:
    """Rendered pairs with a made-up reference."""
    renderer, generator = Renderer(tokenizer), np.random.default_rng(0)
    contents = [named("preference").read(Row(Origin("m", i), row)) for i, row in enumerate(pair_rows(count))]
    rendered = [Example(Origin("m", 1), "", tuple(Dpo().sequences(c, renderer)), c) for c in contents]
    return [
        replace(e, columns={"reference": generator.normal(-5, 1, e.supervised).astype(np.float32)}) for e in rendered
    ]


def log_ratios(model: Any, example: Example) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """For both answers, each sequence alone: log p, log p minus the reference's, and the number of tokens."""
    found, reference = [], torch.from_numpy(example.columns["reference"]).double()
    for tokens in example.sequences:
        ids, asked = torch.from_numpy(tokens.ids).long(), np.flatnonzero(tokens.weights)
        logp = model(ids[None], use_cache=False).logits[0].double().log_softmax(-1)
        own = torch.stack([logp[t - 1, ids[t]] for t in asked])
        mine, reference = reference[: len(asked)], reference[len(asked) :]
        found.append((own.sum(), (own - mine).sum(), len(asked)))
    return found


def defined(settings: Dpo, model: Any, batch: list[Example]) -> torch.Tensor:
    """The mean over pairs, by the papers' formulas."""
    b, s, losses = settings.beta, settings.label_smoothing, []
    for example in batch:
        (own, better, n), (_, worse, m) = log_ratios(model, example)
        if settings.length_normalised or settings.loss_type == "ipo":
            better, worse = better / n, worse / m
        x = better - worse
        up, down = -torch.log(torch.sigmoid(b * x)), -torch.log(torch.sigmoid(-b * x))
        loss = {
            "sigmoid": (1 - s) * up + s * down,
            "hinge": torch.clamp(1 - b * x, min=0),
            "ipo": (x - 1 / (2 * b)) ** 2,
            "robust": ((1 - s) * up - s * down) / (1 - 2 * s),
        }[settings.loss_type]
        losses.append(loss - settings.sft_weight * own / n)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    "settings",
    [
        Dpo(),
        Dpo(beta=0.5, label_smoothing=0.2),
        Dpo(loss_type="hinge"),
        Dpo(loss_type="ipo"),
        Dpo(loss_type="robust", label_smoothing=0.1),
        Dpo(length_normalised=True, sft_weight=0.7),
    ],
    ids=lambda s: f"{s.loss_type}-{s.label_smoothing}-{s.sft_weight}",
)
@pytest.mark.parametrize("packing", [True, False])
def test_equals_its_definition(tokenizer: Any, settings: Dpo, *, packing: bool) -> None:
    model = build_model(len(tokenizer)).double()
    _use_segment_attention(model)
    rows = examples(tokenizer, 5)
    expected = defined(settings, model, rows)
    expected.backward()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    batch = lay_out(rows, Layout(packing=packing, tokens=10_000))
    total, metrics = settings.loss(Forward(model)(model, batch).logprobs(batch.targets), batch)
    assert settings.units(batch) == 5
    loss = total / 5
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, slopes[name], rtol=1e-5, atol=1e-9), name
    assert 0 <= metrics["reward_accuracy"].item() <= 5


def test_an_empty_micro_batch_asks_for_nothing(tokenizer: Any) -> None:
    model = build_model(len(tokenizer))
    batch = lay_out([], Layout(packing=True, tokens=64))
    total, _ = Dpo().loss(Forward(model)(model, batch).logprobs(batch.targets), batch)
    total.backward()
    assert total.item() == 0 and Dpo().units(batch) == 0


class Seen(Observer):
    """Keeps losses and metrics."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def on_step(self, progress: Progress) -> bool:
        self.steps.append(progress)
        return False


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_starts_at_ln_2_and_learns(run_config: Callable[..., Any], adapter: str) -> None:
    """The reference is the model itself, so the first step knows no difference."""
    rate = 5e-3 if adapter == "lora" else 1e-3
    config = run_config(
        pair_rows(16), objective="dpo", adapter=adapter, train__learning_rate=rate, train__max_steps=25,
        train__warmup_steps=0, train__evaluate_every="5 steps",
    )  # fmt: skip
    watch = Seen()
    _, metrics = luthier.Factory().fine_tune(config, observers=[watch])
    assert watch.steps[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert watch.steps[-1].loss < 0.6 and watch.steps[-1].metrics["reward_accuracy"] > 0.8
    assert {"loss", "reward_margin", "reward_accuracy"} <= metrics.keys() and "perplexity" not in metrics
    lines = (Path(config.output.dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert "held_out_reward_accuracy" in json.loads(lines[4])


def test_rows_of_another_kind_are_refused(run_config: Callable[..., Any]) -> None:
    from luthier.errors import DataError

    with pytest.raises(DataError, match="dpo learns pairs of answers; this row is a conversation: use objective: sft"):
        luthier.Factory().fine_tune(run_config(objective="dpo"))
    with pytest.raises(DataError, match="two answers to compare: use objective: dpo"):
        luthier.Factory().fine_tune(run_config(pair_rows(8)))


def test_smoothing_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValidationError, match="label_smoothing goes with loss_type sigmoid or robust, not ipo"):
        Dpo(loss_type="ipo", label_smoothing=0.1)


def test_a_cut_pair_is_dropped_whole(run_config: Callable[..., Any]) -> None:
    rows = pair_rows(8)
    rows[3]["rejected"] = "long " * 300
    rows[4]["prompt"] = "long " * 300
    ready = luthier.Factory().prepare(
        run_config(rows, objective="dpo", data__over_length="truncate", data__bad_rows="drop")
    )
    outcomes = {entry.line: (entry.outcome, entry.reason) for entry in ready.data.ledger.entries}
    assert outcomes[4] == ("truncated", "over-length") and outcomes[5] == ("dropped", "no-supervised-token")
    assert all(len(example.sequences) == 2 for example in ready.data.train)
