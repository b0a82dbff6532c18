"""Rollouts as a loader: what is drawn, cut and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import luthier
from luthier.assembly import Assembly
from luthier.data.loader import Step
from luthier.distributed.single import Single
from luthier.rollout.source import Rollouts

Make = Callable[..., Any]


def rollouts(config: Any) -> Rollouts:
    """The loader of a config's run."""
    factory = luthier.Factory()
    assembly = Assembly(
        config, factory.prepare(config), Single().open(), models=factory.models, evaluator=factory.evaluator
    )
    loader = assembly.job().loader
    assert isinstance(loader, Rollouts)
    return loader


def same(one: Step, other: Step) -> bool:
    """Whether two steps hold the same numbers."""
    pairs = zip(one.micro_batches, other.micro_batches, strict=True)
    return all(
        torch.equal(a.ids, b.ids) and all(torch.equal(a.columns[name], b.columns[name]) for name in b.columns)
        for a, b in pairs
    )


def test_answers_stand_behind_their_prompts(online: Make) -> None:
    """Every answer is learnt whole, each prompt stands once, and the advantages of a group add up to nothing."""
    loader = rollouts(online("rloo"))
    step = next(loader.steps())
    targets = sum(len(batch.targets) for batch in step.micro_batches)
    segments = [segment for batch in step.micro_batches for segment in batch.segments]
    assert len(step.examples) == 4 and len(segments) == 24
    assert targets == round(step.metrics["answer_tokens"] * 24)
    gains = torch.cat([batch.columns["advantage"] / 1 for batch in step.micro_batches])
    owners = torch.cat([batch.targets.segment + 1000 * i for i, batch in enumerate(step.micro_batches)])
    each = [gains[owners == owner][0].item() for owner in owners.unique()]
    assert abs(sum(each)) < 1e-4 and any(each)


def test_what_is_drawn_depends_on_seed_and_place_only(online: Make) -> None:
    one, other = rollouts(online("grpo")), rollouts(online("grpo"))
    first, second = (next(loader.steps()) for loader in (one, other))
    torch.rand(7)
    assert same(first, second)
    steps = one.steps(epoch=0, position=4)
    later = next(steps)
    assert not same(first, later)
    assert same(next(steps), next(other.steps(epoch=0, position=8)))
    assert not same(first, next(rollouts(online("grpo", train__seed=1)).steps()))


def test_many_answers_are_cut_into_several_passes(online: Make) -> None:
    wide = rollouts(online("grpo", train__micro_batch_tokens=10_000))
    narrow = rollouts(online("grpo", train__micro_batch_tokens=50))
    together, apart = next(wide.steps()), next(narrow.steps())
    assert len(together.micro_batches) == 1 and len(apart.micro_batches) > 4
    assert all(batch.ids.numel() <= 60 for batch in apart.micro_batches)
    sums = [sum(float(b.columns["advantage"].sum()) for b in s.micro_batches) for s in (together, apart)]
    assert np.isclose(*sums, atol=1e-5)


def test_answers_that_are_used_again_are_remembered(online: Make) -> None:
    """To the last bit; and not after their last use."""
    settings = {"updates": 3, "beta": 0.1}
    loader, fresh = rollouts(online("grpo", settings=settings)), rollouts(online("grpo", settings=settings))
    steps = loader.steps()
    next(steps)
    memory = loader.memory()
    assert {"ids", "column.old", "column.reference", "column.advantage"} <= memory.keys()
    fresh.remember(memory)
    second = next(steps)
    again = fresh.steps(epoch=second.epoch, position=second.position)
    assert same(next(again), second)
    third = next(steps)
    assert same(next(again), third) and loader.memory() == {} == fresh.memory()
    assert (third.epoch, third.position) == (0, 4)
    assert loader.steps_per_epoch == 3 * loader.loader.steps_per_epoch
