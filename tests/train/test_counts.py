"""A guard: how many operations a training step runs, and how many bytes it allocates, do not grow unnoticed.

Counts, not times: the same on every machine. Who makes a step leaner lowers the line; who raises it says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from luthier.assembly import Assembly
from luthier.distributed.single import SingleStrategy
from luthier.factory import Factory
from luthier.kernels import native
from luthier.train.state import State
from luthier.train.step import run_step


def counted(config: Any) -> tuple[int, int, dict[str, int]]:
    """Operations, bytes that the allocator was asked for, and how often each operation ran, of a second step."""
    from torch.profiler import ProfilerActivity, profile

    factory = Factory()
    ready = factory.prepare(config)
    strategy = SingleStrategy(torch.device("cpu"))
    job = Assembly(config, ready, strategy, models=factory.models, evaluator=factory.evaluator).job(restart=True)
    steps = job.loader.steps()
    run_step(job, State(), next(steps))
    step = next(steps)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run_step(job, State(), step)
    by_name: dict[str, int] = {}
    for event in seen.events():
        by_name[event.name] = by_name.get(event.name, 0) + 1
    operations = sum(count for name, count in by_name.items() if name.startswith("aten::"))
    asked = sum(int(e.self_cpu_memory_usage) for e in seen.key_averages() if e.self_cpu_memory_usage > 0)
    return operations, asked, by_name


@pytest.fixture
def step(run_config: Callable[..., Any]) -> Callable[[Any], tuple[int, int, dict[str, int]]]:
    """Counts of a step under some kernels."""
    return lambda kernels: counted(run_config(train__kernels=kernels, adapter={"type": "lora"}))


@pytest.mark.parametrize(("kernels", "most"), [("plain", 5733), (["lora"], 5041), ("auto", 3753)])
def test_a_step_does_not_grow(step: Any, kernels: Any, most: int) -> None:
    """Operations; those by which a device is waited for; bytes, of which kernels need no more than plain code."""
    if kernels == "auto" and native.reason() is not None:
        pytest.skip("no compiler")
    operations, asked, by_name = step(kernels)
    assert 0.9 * most < operations <= 1.02 * most
    assert by_name["aten::item"] <= 34 and "aten::nonzero" not in by_name
    assert asked <= 33e6
