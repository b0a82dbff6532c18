"""The loss scaler: gradients as without it, and what happens when they overflow."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from luthier.train.scaling import LossScaler


def backward(scaler: LossScaler, weight: nn.Parameter, factor: float) -> tuple[float, torch.Tensor]:
    """Loss and gradients after scaling and back."""
    weight.grad = None
    loss = (weight * factor).sum()
    scaled = scaler.scaled(loss)
    scaled.backward()
    loss_again = scaler.unscale(torch.optim.SGD([weight], lr=0.1), float(scaled.detach()))
    assert weight.grad is not None
    return loss_again, weight.grad


def test_scaling_loses_nothing() -> None:
    scaler, weight = LossScaler("cpu"), nn.Parameter(torch.tensor([1.1, -2.3]))
    loss, slope = backward(scaler, weight, 0.1)
    assert loss == float((weight.detach() * 0.1).sum()) and torch.equal(slope, torch.full((2,), 0.1))
    assert not scaler.overflowed() and scaler.skipped == 0 and scaler.scale == 65536


def test_an_overflow_halves_the_scale_and_is_counted() -> None:
    scaler, weight = LossScaler("cpu"), nn.Parameter(torch.ones(2))
    for step in (1, 2):
        _, slope = backward(scaler, weight, 1e35)
        assert not slope.isfinite().all() and scaler.overflowed()
        assert scaler.skipped == step and scaler.scale == 65536 / 2**step
    backward(scaler, weight, 1.0)
    assert not scaler.overflowed() and scaler.skipped == 2


def test_what_no_scale_mends_is_no_overflow() -> None:
    """The loop then says what is wrong, and does not skip for ever."""
    scaler, weight = LossScaler("cpu", scale=4.0), nn.Parameter(torch.ones(2))
    found = []
    for _ in range(4):
        backward(scaler, weight, float("nan"))
        found.append(scaler.overflowed())
    assert found == [True, True, False, False] and scaler.skipped == 2


def test_the_scale_grows_again_after_a_resumed_run_too() -> None:
    """What it remembers is JSON, and one that was put back goes on as if nothing had happened."""
    one = LossScaler("cpu", scale=8.0)
    weight = nn.Parameter(torch.ones(2))
    backward(one, weight, float("inf"))
    assert one.overflowed()
    one._inner.set_growth_interval(3)
    for _ in range(2):
        backward(one, weight, 1.0)
        one.overflowed()
    other = LossScaler("cpu")
    other.load(json.loads(json.dumps(one.state())))
    assert (other.scale, other.skipped, type(other.skipped)) == (4.0, 1, int)
    for scaler in (one, other):
        backward(scaler, weight, 1.0)
        assert not scaler.overflowed() and scaler.scale == 8.0
    assert one.state() == other.state()


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_sees_gradients_as_without_it(fused: bool) -> None:
    """torch's fused kernel could unscale by itself; nothing is done twice."""
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    scaler = LossScaler("cpu")
    for weight, scaled in zip(weights, (False, True), strict=True):
        optimizer = torch.optim.AdamW([weight], fused=fused)
        for _ in range(3):
            loss = (weight**2).sum()
            if scaled:
                scaler.scaled(loss).backward()
                scaler.unscale(optimizer, 0.0)
                assert not scaler.overflowed()
            else:
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(weights[0], weights[1])
