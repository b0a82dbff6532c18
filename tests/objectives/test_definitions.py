"""Every objective against its definition in float64: each sequence alone, the papers' formulas, nothing shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from luthier.data.conversation import Labelled
from luthier.data.pack import Example, Layout
from luthier.objectives.base import Objective
from luthier.objectives.cpo import Cpo
from luthier.objectives.distill import Distill
from luthier.objectives.dpo import Dpo
from luthier.objectives.kto import Kto
from luthier.objectives.orpo import Orpo
from luthier.objectives.pretrain import Pretrain
from luthier.objectives.sft import Sft
from luthier.objectives.simpo import Simpo
from tests.conftest import build_model
from tests.objectives.conftest import examples, loss_of, require_same, said, slopes, tiny_model

Definition = Callable[[Any, Any, list[Example]], Tensor]


def sft(o: Sft, model: Any, rows: list[Example]) -> Tensor:
    every = [s for row in rows for s in said(model, row)]
    smooth = o.label_smoothing if model.training else 0.0
    losses = torch.cat([-(1 - smooth) * s.own - smooth * s.everything.mean(-1) for s in every])
    return losses.mean()


def dpo(o: Dpo, model: Any, rows: list[Example]) -> Tensor:
    b, s, losses = o.beta, o.label_smoothing, []
    for row in rows:
        better, worse = said(model, row)
        mean = o.length_normalised or o.loss_type == "ipo"
        x = better.gain.mean() - worse.gain.mean() if mean else better.gain.sum() - worse.gain.sum()
        up, down = -torch.log(torch.sigmoid(b * x)), -torch.log(torch.sigmoid(-b * x))
        losses.append({
            "sigmoid": (1 - s) * up + s * down, "hinge": relu(1 - b * x), "ipo": (x - 1 / (2 * b)) ** 2,
            "robust": ((1 - s) * up - s * down) / (1 - 2 * s),
        }[o.loss_type] - o.sft_weight * better.own.mean())  # fmt: skip
    return torch.stack(losses).mean()


def orpo(o: Orpo, model: Any, rows: list[Example]) -> Tensor:
    losses = []
    for row in rows:
        better, worse = (s.own.mean() for s in said(model, row))
        odds = [p.exp() / (1 - p.exp()) for p in (better, worse)]
        losses.append(-better - o.beta * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1]))))
    return torch.stack(losses).mean()


def simpo(o: Simpo, model: Any, rows: list[Example]) -> Tensor:
    found = [[s.own.mean() for s in said(model, row)] for row in rows]
    return torch.stack([-logsigmoid(o.beta * (c - r) - o.gamma) - o.sft_weight * c for c, r in found]).mean()


def cpo(o: Cpo, model: Any, rows: list[Example]) -> Tensor:
    losses, smooth = [], o.label_smoothing
    for row in rows:
        better, worse = said(model, row)
        x = o.beta * (better.own.sum() - worse.own.sum())
        losses.append(-(1 - smooth) * logsigmoid(x) - smooth * logsigmoid(-x) - o.sft_weight * better.own.mean())
    return torch.stack(losses).mean()


def kto(o: Kto, model: Any, rows: list[Example]) -> Tensor:
    strange = [said(model, row.companion)[0].gain.sum().detach() for row in rows if row.companion]
    point, losses = torch.stack(strange).mean().clamp(min=0), []
    for row in rows:
        assert isinstance(row.content, Labelled)
        gain = said(model, row)[0].gain.sum()
        value = torch.sigmoid(o.beta * ((gain - point) if row.content.wanted else (point - gain)))
        losses.append((o.desirable_weight if row.content.wanted else o.undesirable_weight) * (1 - value))
    return torch.stack(losses).mean()


CASES: list[tuple[Objective, Definition]] = [
    (Sft(), sft),
    (Sft(label_smoothing=0.2), sft),
    (Pretrain(), sft),
    (Dpo(), dpo),
    (Dpo(beta=0.5, label_smoothing=0.2), dpo),
    (Dpo(loss_type="hinge"), dpo),
    (Dpo(loss_type="ipo"), dpo),
    (Dpo(loss_type="robust", label_smoothing=0.1), dpo),
    (Dpo(length_normalised=True, sft_weight=0.7), dpo),
    (Orpo(beta=0.3), orpo),
    (Simpo(), simpo),
    (Simpo(beta=3, gamma=0.4, sft_weight=0.3), simpo),
    (Cpo(), cpo),
    (Cpo(beta=0.3, label_smoothing=0.1, sft_weight=0), cpo),
    (Kto(), kto),
    (Kto(beta=0.4, desirable_weight=1.3, undesirable_weight=0.6), kto),
]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("objective", "definition"), CASES, ids=lambda case: getattr(case, "__name__", str(case)[:40]))
def test_loss_and_gradients(tokenizer: Any, objective: Any, definition: Definition, *, packing: bool) -> None:
    model = tiny_model(tokenizer).train()
    rows = examples(tokenizer, objective)
    expected = definition(objective, model, rows)
    expected.backward()
    right = slopes(model)
    loss = loss_of(objective, model, rows, Layout(packing=packing, tokens=10_000))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    require_same(slopes(model), right, 1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("trained_head", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_distillation(tokenizer: Any, direction: Any, weight: float, *, trained_head: bool) -> None:
    objective = Distill(teacher="-", direction=direction, temperature=2.0, sft_weight=weight)
    model, teacher = tiny_model(tokenizer), build_model(len(tokenizer), seed=1, hidden_size=32).double()
    for parameter in model.get_output_embeddings().parameters():
        parameter.requires_grad = trained_head
    rows, losses = examples(tokenizer, objective), []
    for row in rows:
        (own,) = said(model, row)
        with torch.no_grad():
            (told,) = said(teacher, row)
        s, t = (x.everything.div(2.0).log_softmax(-1) for x in (own, told))
        apart = (t.exp() * (t - s)).sum(-1) if direction == "forward" else (s.exp() * (s - t)).sum(-1)
        losses.append((1 - weight) * 4 * apart - weight * own.own)
    expected = torch.cat(losses).mean()
    expected.backward()
    right = slopes(model)
    from luthier.models.reference import frozen

    layout = Layout(packing=True, tokens=10_000)
    loss = loss_of(objective, model, rows, layout, teacher=frozen(teacher, "fp32"))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    require_same(slopes(model), right, 1e-6)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_measuring_takes_labels_as_they_are(tokenizer: Any) -> None:
    model, layout = tiny_model(tokenizer).eval(), Layout(packing=True, tokens=10_000)
    rows = examples(tokenizer, Sft())
    assert loss_of(Sft(label_smoothing=0.3), model, rows, layout) == loss_of(Sft(), model, rows, layout)


@pytest.mark.parametrize("objective", [case[0] for case in CASES], ids=lambda o: o.type)
def test_an_empty_micro_batch_asks_for_nothing(tokenizer: Any, objective: Objective) -> None:
    from luthier.data.pack import lay_out
    from luthier.models.output import Forward

    model = tiny_model(tokenizer)
    batch = lay_out([], Layout(packing=True, tokens=64))
    total, metrics = objective.loss(Forward(model)(model, batch), batch)
    total.backward()
    assert total.item() == 0 and objective.units(batch) == 0
    assert all(value.item() == 0 for value in metrics.values())
