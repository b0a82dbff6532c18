"""Rows of every kind, rendered, and what a model says about each sequence alone, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.data.conversation import Origin, Row
from luthier.data.formats.base import named
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.render import Renderer
from luthier.models.load import _use_segment_attention
from luthier.models.output import Forward
from luthier.objectives.base import Objective
from luthier.train.observers.base import Observer, Progress
from tests.conftest import build_model, chat_rows


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Questions with a better and a worse answer, of unequal lengths; the chat template makes prompts worth sharing."""
    return [
        {"prompt": f"What is {i}?" + " Say more." * (i % 3), "chosen": f"It is {i}." + " Yes." * (i % 4),
         "rejected": f"No idea about {i}" + ", really" * (i % 5)}
        for i in range(count)
    ]  # fmt: skip


def labelled_rows(count: int) -> list[dict[str, Any]]:
    """Answers that are wanted or not."""
    return [
        {
            "prompt": f"What is {i}?" + " Say more." * (i % 3),
            "completion": f"It is {i}." + " Yes." * (i % 4),
            "label": i % 3 > 0,
        }
        for i in range(count)
    ]


def rows_for(objective: Objective, count: int) -> tuple[str, list[dict[str, Any]]]:
    """The format and rows that an objective learns from."""
    if objective.type == "kto":
        return "labelled", labelled_rows(count)
    return ("preference", pair_rows(count)) if objective.joint else ("messages", chat_rows(count))


def examples(tokenizer: Any, objective: Objective, count: int = 5) -> list[Example]:
    """Rendered rows, with a made-up reference where the objective wants one, and companions."""
    generator = np.random.default_rng(0)
    form, rows = rows_for(objective, count)

    def referenced(example: Example) -> Example:
        return replace(example, columns={"reference": generator.normal(-5, 1, example.supervised).astype(np.float32)})

    found = []
    for i, row in enumerate(rows):
        content = named(form).read(Row(Origin("rows", i), row))
        found.append(Example(Origin("rows", i), "", tuple(objective.sequences(content, Renderer(tokenizer))), content))
    beside = objective.companions(found)
    if objective.needs.reference:
        found = [referenced(example) for example in found]
    if beside is None:
        return found
    return [replace(example, companion=referenced(other)) for example, other in zip(found, beside, strict=True)]


class Said(NamedTuple):
    """What a model says about one sequence: log p of each supervised token, minus the reference, all log p."""

    own: Tensor
    gain: Tensor
    everything: Tensor


def said(model: Any, example: Example) -> list[Said]:
    """Of each sequence of an example, run alone and unpacked."""
    found = []
    reference = torch.from_numpy(example.columns.get("reference", np.zeros(example.supervised))).double()
    for tokens in example.sequences:
        ids, asked = torch.from_numpy(tokens.ids).long(), np.flatnonzero(tokens.weights)
        everything = model(ids[None], use_cache=False).logits[0].double().log_softmax(-1)[asked - 1]
        own = everything.gather(-1, ids[asked][:, None])[:, 0]
        found.append(Said(own, own - reference[: len(asked)], everything))
        reference = reference[len(asked) :]
    return found


def tiny_model(tokenizer: Any, **changes: Any) -> Any:
    """A random model in float64 that packs."""
    model = build_model(len(tokenizer), **changes).double()
    _use_segment_attention(model)
    return model


def loss_of(objective: Objective, model: Any, rows: list[Example], layout: Layout, **forward: Any) -> Tensor:
    """The loss per unit, as the loop computes it for one micro-batch."""
    answer = Forward(model, **forward)
    batch = lay_out(rows, layout)
    beside = [example.companion for example in rows if example.companion]
    if beside:
        other = lay_out(beside, layout)
        noted = objective.statistics(answer(model, other), other)
        batch = replace(batch, step={name: float(value) for name, value in noted.items()})
    total, _ = objective.loss(answer(model, batch), batch)
    return total / objective.units(batch)


def slopes(model: Any) -> dict[str, Tensor]:
    """The gradients of a model, which forgets them."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def require_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Gradients whose relative norms agree."""
    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        assert (found[name] - slope).norm() <= tolerance * slope.norm() + 1e-12, name


class Seen(Observer):
    """Keeps what each step said."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def on_step(self, progress: Progress) -> bool:
        self.steps.append(progress)
        return False


def prompt_rows(count: int) -> list[dict[str, Any]]:
    """Questions for online objectives."""
    return [{"prompt": f"What is {i}?" + " Say it." * (i % 3), "answer": str(i)} for i in range(count)]


DIGIT = {"type": "regex", "pattern": "[kqx]"}
