"""Norms and gated activations against their definition in float64: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.kernels import native
from luthier.kernels.fused import gated, gated_plain, rms_norm, rms_norm_plain

pytestmark = pytest.mark.skipif(native.reason() is not None, reason="no compiler")


def found(compute: Callable[..., Tensor], given: tuple[Tensor, ...]) -> list[Tensor]:
    """The outcome and its slopes."""
    leaves = [t.detach().requires_grad_() for t in given]
    outcome = compute(*leaves)
    weights = torch.linspace(-1, 1, outcome.numel(), dtype=outcome.dtype).view_as(outcome)
    return [outcome.detach(), *torch.autograd.grad((outcome * weights).sum(), leaves)]


def near(fast: Callable[..., Tensor], plain: Callable[..., Tensor], *given: Tensor) -> None:
    """A careful float32 is 100 times nearer than what is promised for whole steps."""
    for ours, exact in zip(found(fast, given), found(plain, tuple(t.double() for t in given)), strict=True):
        assert ours.shape == exact.shape and (ours - exact).norm() <= 5e-7 * exact.norm()


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 16), (3, 5, 64), (2, 7, 4, 48)])
def test_norm(shape: tuple[int, ...], offset: float) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"eps": 1e-5, "offset": offset}
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    near(lambda x, w: rms_norm(x, w, **settings), lambda x, w: rms_norm_plain(x, w, **settings), x, weight)
    turned = x.transpose(0, -2)  # not contiguous
    near(lambda x, w: rms_norm(x, w, **settings), lambda x, w: rms_norm_plain(x, w, **settings), turned, weight)


@pytest.mark.parametrize("gelu_gate", [False, True])
def test_gated(gelu_gate: bool) -> None:
    torch.manual_seed(0)
    gate, up = torch.randn(5, 3, 64) * 4, torch.randn(5, 3, 64)
    near(lambda a, b: gated(a, b, gelu_gate=gelu_gate), lambda a, b: gated_plain(a, b, gelu_gate=gelu_gate), gate, up)


def test_far_values_stay_finite() -> None:
    """Where the exponential would overflow or vanish."""
    gate = torch.tensor([-1e4, -200.0, -88.0, -87.0, 0.0, 87.0, 200.0, 1e4] * 4)
    for outcome in found(gated, (gate, torch.ones(32))):
        assert outcome.isfinite().all()
    torch.testing.assert_close(gated(gate, torch.ones(32)), gated_plain(gate, torch.ones(32)))


def test_threads_change_nothing() -> None:
    """To the last bit."""
    x, weight = torch.randn(33, 64), torch.randn(64)
    before = torch.get_num_threads()
    outcomes = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outcomes.append(found(lambda x, w: rms_norm(x, w, 1e-5), (x, weight))[:2])
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))
