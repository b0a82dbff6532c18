"""LoRA as one operation: base product, down, up, scaling and dropout of all adapted layers that share an input.

For each layer y = x W^T + b + s (noise(x) A^T) B^T (Hu et al. 2021, arXiv:2106.09685). By definition that is four
operations, two of them over whole outputs, and autograd keeps the input and every outcome, and multiplies thin matrices
in orders in which libraries are slow (g^T h takes 6 times as long as h^T g). Here the thin matrices are held transposed
`[r, N]`, added in place into the products with W, and the input is kept once. `benchmarks.kernels` has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, linear


class Adapted(NamedTuple):
    """A linear layer `weight` `[O, I]`, `bias` `[O]` with its update: `down` `[r, I]`, `up` `[O, r]`, times `scale`."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float


def lora_linears(x: Tensor, layers: Sequence[Adapted], *, drop: float = 0.0) -> tuple[Tensor, ...]:
    """What each layer makes of `x` `[..., I]`: `[..., O]` for each; `drop` is the share dropped before each `down`.

    Draws the random numbers that the plain version draws. Trains `down` and `up`; `weight` and `bias` are frozen.
    """
    scales = [layer.scale for layer in layers]
    result: tuple[Tensor, ...] = _Lora.apply(x, scales, drop, *(t for layer in layers for t in layer[:4]))  # type: ignore[no-untyped-call]
    return result


def lora_linears_plain(x: Tensor, layers: Sequence[Adapted], *, drop: float = 0.0) -> tuple[Tensor, ...]:
    """The same by definition; the reference of the tests."""
    return tuple(
        linear(x, weight, bias) + linear(linear(dropout(x, drop), down), up) * scale
        for weight, bias, down, up, scale in layers
    )


class _Lora(torch.autograd.Function):
    """Saves the input, and of each layer the thin product `[r, N]` (and the noise, a byte for each number)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], drop: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        downs, ups = tensors[2::4], tensors[3::4]
        noises = [torch.empty_like(flat).bernoulli_(1 - drop).bool() for _ in downs] if drop else []
        if noises:
            thins = [d @ _noisy(flat, noise, drop).T for d, noise in zip(downs, noises, strict=True)]
        else:
            thins = list(torch.split(torch.cat(downs) @ flat.T, [len(d) for d in downs]))
        outputs = [linear(flat, weight, bias) for weight, bias in zip(tensors[::4], tensors[1::4], strict=True)]
        for output, thin, up, scale in zip(outputs, thins, ups, scales, strict=True):
            output.addmm_(thin.T, up.T, alpha=scale)
        ctx.scales, ctx.drop = scales, drop
        ctx.save_for_backward(x, *thins, *noises, *tensors)
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        count, drop = len(grads), ctx.drop
        x, *kept = ctx.saved_tensors
        thins, noises, tensors = kept[:count], kept[count : -4 * count], kept[-4 * count :]
        flat = x.reshape(-1, x.shape[-1])
        slopes = [grad.reshape(len(flat), -1) for grad in grads]
        found: list[Tensor | None] = []
        total: Tensor | None = None
        thin_slopes = []
        for slope, thin, scale, weight, up in zip(slopes, thins, ctx.scales, tensors[::4], tensors[3::4], strict=True):
            thin_slopes.append((up.T.contiguous() @ slope.T).mul_(scale))
            found += [None, None, None, (thin @ slope).mul_(scale).T]
            if ctx.needs_input_grad[0]:
                total = slope @ weight if total is None else total.addmm_(slope, weight)
        if noises:
            for place, (noise, side) in enumerate(zip(noises, thin_slopes, strict=True)):
                found[4 * place + 2] = side @ _noisy(flat, noise, drop)
                if total is not None:
                    total += _noisy(side.T @ tensors[4 * place + 2], noise, drop)
        else:
            together = torch.cat(thin_slopes)
            found[2::4] = torch.split(together @ flat, [len(side) for side in thin_slopes])
            if total is not None:
                total.addmm_(together.T, torch.cat(tensors[2::4]))
        return None if total is None else total.view(x.shape), None, None, *found


def _noisy(values: Tensor, noise: Tensor, drop: float) -> Tensor:
    """What dropout leaves of values `[N, I]`."""
    return values * noise.to(values.dtype).div_(1 - drop)
