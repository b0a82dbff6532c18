"""LoRA as one operation against its definition: values, gradients, noise, and float32 against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.kernels.lora import Adapted, lora_linears, lora_linears_plain

WIDTH, RANK = 12, 3


def layers(outputs: tuple[int, ...], *, bias: bool, dtype: torch.dtype = torch.float64) -> list[Adapted]:
    torch.manual_seed(0)
    found = []
    for number, width in enumerate(outputs):
        shapes = ((width, WIDTH), (width,), (RANK + number, WIDTH), (width, RANK + number))
        weight, offset, down, up = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
        found.append(Adapted(weight, offset if bias else None, down, up, 0.5 + number))
    return found


def slopes(compute: Any, x: Tensor, given: list[Adapted], drop: float) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of x and of all thin matrices; the same noise whoever computes."""
    leaves = [x, *(t for layer in given for t in (layer.down, layer.up))]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    used = [a._replace(down=leaves[1 + 2 * i], up=leaves[2 + 2 * i]) for i, a in enumerate(given)]
    torch.manual_seed(3)
    outputs = compute(leaves[0], used, drop=drop)
    weights = [torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view_as(output) for output in outputs]
    total = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    return list(outputs), list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.4])
@pytest.mark.parametrize("outputs", [(7,), (7, 5, 9)])
def test_equals_its_definition(outputs: tuple[int, ...], drop: float, bias: bool) -> None:
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    given = layers(outputs, bias=bias)
    for ours, theirs in zip(
        slopes(lora_linears, x, given, drop), slopes(lora_linears_plain, x, given, drop), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_float32_is_near_float64() -> None:
    x = torch.randn(300, WIDTH)
    given = layers((40, 8), bias=True, dtype=torch.float32)
    near = slopes(lora_linears, x, given, 0.0)
    wide = [Adapted(*(t.double() for t in a[:4]), scale=a.scale) for a in given]  # type: ignore[union-attr, arg-type]
    exact = slopes(lora_linears_plain, x.double(), wide, 0.0)
    for ours, theirs in zip((*near[0], *near[1]), (*exact[0], *exact[1]), strict=True):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


def test_an_output_that_nobody_uses_has_no_part() -> None:
    given = layers((7, 5), bias=False)
    x = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)
    alone = torch.autograd.grad(lora_linears(x, given[:1])[0].sum(), x)
    torch.testing.assert_close(torch.autograd.grad(lora_linears(x, given)[0].sum(), x), alone)
