"""Learning rates against the schedules of transformers, at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from luthier.train.schedule import Constant, Cosine, Linear, Schedule, learning_rate, warmup_length

THEIRS: dict[str, tuple[Schedule, Callable[..., Any]]] = {
    "cosine": (Cosine(), transformers.get_cosine_schedule_with_warmup),
    "cosine to a tenth": (Cosine(minimum=0.1), transformers.get_cosine_with_min_lr_schedule_with_warmup),
    "linear": (Linear(), transformers.get_linear_schedule_with_warmup),
    "constant": (Constant(), transformers.get_constant_schedule_with_warmup),
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 1), (20, 0), (20, 1), (20, 7), (20, 19), (97, 3)])
def test_equals_transformers(kind: str, total: int, warmup: int) -> None:
    ours, theirs = THEIRS[kind]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    settings: dict[str, Any] = {"num_warmup_steps": warmup}
    if kind != "constant":
        settings["num_training_steps"] = total
    if kind == "cosine to a tenth":
        settings["min_lr_rate"] = 0.1
    schedule = theirs(optimizer, **settings)
    for step in range(total):
        found = learning_rate(ours, step, total_steps=total, warmup=warmup, peak=3e-4)
        assert found == pytest.approx(schedule.get_last_lr()[0], rel=1e-12, abs=1e-18), step
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("minimum", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_from_the_peak_to_the_minimum(kind: Any, minimum: float) -> None:
    schedule = kind(minimum=minimum)
    factors = [schedule.factor(i / 10) for i in range(11)]
    assert factors[0] == 1 and factors[-1] == pytest.approx(minimum)
    assert factors[5] == pytest.approx((1 + minimum) / 2) and factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    ("setting", "total", "steps"),
    [
        (0.0, 100, 0),
        (0.03, 100, 3),
        (0.03, 10, 0),
        (0.5, 3, 2),
        (1, 100, 1),
        (7, 100, 7),
        (50, 10, 9),
        (0.9, 1, 0),
        (1, 1, 0),
    ],
)
def test_warmup_length(setting: float, total: int, steps: int) -> None:
    """A share is rounded up; the last step always has the peak before it."""
    assert warmup_length(setting, total) == steps
