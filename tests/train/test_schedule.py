"""Learning rates against the schedules of transformers, at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from luthier.train.schedule import (
    Constant,
    Cosine,
    CosineRestarts,
    Linear,
    Polynomial,
    Schedule,
    Wsd,
    learning_rate,
    warmup_length,
)

THEIRS: dict[str, tuple[Schedule, Callable[..., Any], dict[str, Any]]] = {
    "cosine": (Cosine(), transformers.get_cosine_schedule_with_warmup, {}),
    "cosine to a tenth": (
        Cosine(minimum=0.1),
        transformers.get_cosine_with_min_lr_schedule_with_warmup,
        {"min_lr_rate": 0.1},
    ),
    "linear": (Linear(), transformers.get_linear_schedule_with_warmup, {}),
    "constant": (Constant(), transformers.get_constant_schedule_with_warmup, {}),
    **{
        f"{cycles} cycles": (
            CosineRestarts(cycles=cycles),
            transformers.get_cosine_with_hard_restarts_schedule_with_warmup,
            {"num_cycles": cycles},
        )
        for cycles in (1, 2, 3, 7)
    },
    **{
        f"to a tenth by power {power}": (
            Polynomial(power=power, minimum=0.1),
            transformers.get_polynomial_decay_schedule_with_warmup,
            {"power": power, "lr_end": 3e-5},
        )
        for power in (0.5, 1.0, 2.0)
    },
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 1), (20, 0), (20, 1), (20, 7), (20, 19), (97, 3)])
def test_equals_transformers(kind: str, total: int, warmup: int) -> None:
    ours, theirs, more = THEIRS[kind]
    if kind != "constant":
        more = {**more, "num_training_steps": total}
    compare(ours, lambda optimizer: theirs(optimizer, num_warmup_steps=warmup, **more), total, warmup)


def compare(
    ours: Schedule, theirs: Callable[..., Any], total: int, warmup: int, *, start: int = 0, within: float = 1e-12
) -> None:
    """The rates of all steps from `start` on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = theirs(optimizer)
    for step in range(total):
        found = learning_rate(ours, step, total_steps=total, warmup=warmup, peak=3e-4)
        assert step < start or found == pytest.approx(schedule.get_last_lr()[0], rel=within, abs=1e-18), step
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("minimum", [0.0, 0.2])
@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize(("total", "warmup", "steps"), [(20, 0, 4), (23, 3, 10), (50, 10, 40), (10, 9, 1)])
def test_wsd_equals_transformers(shape: Any, minimum: float, total: int, warmup: int, steps: int) -> None:
    """Theirs takes steps, and warms up from the minimum; the root makes a rounding error of 1e-17 one of 1e-8."""
    settings: dict[str, Any] = {"num_warmup_steps": warmup, "num_decay_steps": steps, "num_training_steps": total}
    compare(
        Wsd(decay=steps / (total - warmup), shape=shape, minimum=minimum),
        lambda o: transformers.get_wsd_schedule(o, **settings, decay_type=shape, min_lr_ratio=minimum),
        total,
        warmup,
        start=warmup,
        within=1e-7,
    )


shares = st.floats(0, 1)
schedules = st.one_of(
    st.builds(Constant),
    st.builds(Cosine, minimum=shares),
    st.builds(Linear, minimum=shares),
    st.builds(CosineRestarts, cycles=st.integers(1, 50), minimum=shares),
    st.builds(Wsd, decay=st.floats(1e-3, 1), shape=st.sampled_from(["linear", "cosine", "1-sqrt"]), minimum=shares),
    st.builds(Polynomial, power=st.floats(0.01, 20), minimum=shares),
)


@given(schedule=schedules, progress=shares)
def test_a_factor_is_a_share(schedule: Any, progress: float) -> None:
    """Never above the peak, never below the minimum, and both ends are met."""
    minimum = 1.0 if isinstance(schedule, Constant) else schedule.minimum
    assert minimum - 1e-12 <= schedule.factor(progress) <= 1 + 1e-12
    assert schedule.factor(0.0) == pytest.approx(1.0, abs=1e-12)
    assert schedule.factor(1.0) == pytest.approx(minimum, abs=1e-12)


@given(schedule=schedules.filter(lambda s: not isinstance(s, CosineRestarts)), a=shares, b=shares)
def test_the_rate_never_rises_but_for_restarts(schedule: Any, a: float, b: float) -> None:
    assert schedule.factor(max(a, b)) <= schedule.factor(min(a, b)) + 1e-12


@given(decay=st.floats(1e-3, 1), progress=shares, shape=st.sampled_from(["linear", "cosine", "1-sqrt"]))
def test_wsd_is_stable_until_it_decays(decay: float, progress: float, shape: Any) -> None:
    if progress <= 1 - decay:
        assert Wsd(decay=decay, shape=shape).factor(progress) == 1.0


@given(cycles=st.integers(1, 50), cycle=st.integers(0, 49))
def test_each_cycle_begins_at_the_peak(cycles: int, cycle: int) -> None:
    begin = (cycle % cycles) / cycles
    assert CosineRestarts(cycles=cycles, minimum=0.1).factor(begin + 1e-9) == pytest.approx(1.0, abs=1e-6)


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
