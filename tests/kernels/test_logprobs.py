"""Chunked log-probabilities against their definition: values, gradients, and how near they are to float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.kernels.logprobs import CHUNK_POSITIONS, label_logprobs, label_logprobs_plain

SIZES = [0, 1, 7, CHUNK_POSITIONS, CHUNK_POSITIONS + 1, 2 * CHUNK_POSITIONS + 3]


def inputs(count: int, *, bias: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Any]:
    """Hidden states, head, labels and bias."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(count, 16, dtype=dtype), torch.randn(50, 16, dtype=dtype)
    return [hidden, weight, torch.randint(50, (count,)), torch.randn(50, dtype=dtype) if bias else None]


def gradients(function: Any, given: list[Any], trained: tuple[int, ...]) -> tuple[Tensor, dict[int, Tensor]]:
    """The log-probabilities, and the gradient of an uneven sum of them for the inputs that are trained."""
    leaves = [t.clone().requires_grad_(i in trained) if i != 2 and t is not None else t for i, t in enumerate(given)]
    result = function(*leaves)
    (result * torch.linspace(-1, 2, len(result), dtype=result.dtype)).sum().backward()
    assert all(leaves[i].grad is None for i in (0, 1, 3) if i not in trained and leaves[i] is not None)
    return result.detach(), {i: leaves[i].grad for i in trained}


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(
    ("trained", "bias"),
    [((0,), False), ((0,), True), ((1,), False), ((0, 1), False), ((0, 1), True), ((0, 1, 3), True), ((3,), True)],
)
def test_equals_its_definition(count: int, trained: tuple[int, ...], bias: bool) -> None:
    given = inputs(count, bias=bias)
    values, slopes = gradients(label_logprobs, given, trained)
    expected, slopes_expected = gradients(label_logprobs_plain, given, trained)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    for i in trained:
        torch.testing.assert_close(slopes[i], slopes_expected[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, CHUNK_POSITIONS + 1])
def test_gradcheck(count: int) -> None:
    hidden, weight, labels, bias = inputs(count)
    leaves = [
        t[..., :3].clone().requires_grad_() if t is not bias else t.clone().requires_grad_()
        for t in (hidden, weight, bias)
    ]
    assert torch.autograd.gradcheck(lambda h, w, b: label_logprobs(h, w, labels, b), leaves, fast_mode=count > 1)


def test_without_gradients() -> None:
    given = inputs(9)
    with torch.no_grad():
        torch.testing.assert_close(label_logprobs(*given), label_logprobs_plain(*given))


def test_a_second_derivative_is_refused() -> None:
    """It would be silently wrong: the backward pass takes the saved directions for constants."""
    hidden, weight, labels, bias = inputs(3)
    hidden.requires_grad_()
    loss = label_logprobs(hidden, weight, labels, bias).square().sum()
    (slope,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def errors(function: Any, seed: int) -> Tensor:
    """Mean distance from float64 of float32 values and gradients."""
    given = inputs(64, dtype=torch.float32, seed=seed)
    given[0], given[1] = given[0] * 2, given[1] * 2
    exact = [t.double() if t is not None and t.is_floating_point() else t for t in given]
    (value, slope), (true, true_slope) = (
        gradients(function, given, (0, 1)),
        gradients(label_logprobs_plain, exact, (0, 1)),
    )
    pairs = [(value, true), (slope[0], true_slope[0]), (slope[1], true_slope[1])]
    return torch.stack([(found - expected).abs().mean() for found, expected in pairs])


def test_float32_is_as_near_to_float64_as_torch() -> None:
    def by_torch(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight, bias)
        return logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]

    ours = torch.stack([errors(label_logprobs, seed) for seed in range(20)]).mean(0)
    theirs = torch.stack([errors(by_torch, seed) for seed in range(20)]).mean(0)
    assert (ours <= 1.05 * theirs).all(), (ours, theirs)


def test_extreme_logits() -> None:
    """No overflow where one label is certain, and no rounding to zero of what is all but impossible."""
    hidden, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[1e4], [0.0]])
    sure = label_logprobs(hidden, weight, torch.tensor([0]))
    never = label_logprobs(hidden, weight, torch.tensor([1]))
    assert [sure.item(), never.item()] == [0, -1e4]
    (sure + never).sum().backward()
    assert hidden.grad is not None and float(hidden.grad) == -1e4


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_mixed_precision(kept: torch.dtype) -> None:
    """Under autocast, with the backward pass outside of it: result in float32, gradients in the types of the inputs."""
    hidden, weight, labels, bias = inputs(5, dtype=torch.float32)
    given = [hidden.to(kept), weight, labels, bias]
    leaves = [t.clone().requires_grad_() if t is not labels else t for t in given]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = label_logprobs(*leaves)
    result.sum().backward()
    exact = [t.double().requires_grad_() if t is not labels else t for t in given]
    label_logprobs_plain(*exact).sum().backward()
    assert result.dtype == torch.float32
    for i in (0, 1, 3):
        assert leaves[i].grad.dtype == given[i].dtype
        assert (leaves[i].grad - exact[i].grad).norm() < 0.02 * exact[i].grad.norm()
