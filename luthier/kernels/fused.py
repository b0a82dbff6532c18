"""Norms and gated activations as one operation each, forward and backward, by the helpers of `native.c`.

By definition each is a handful of operations over whole activations, and autograd keeps what lies between; here only
the inputs are kept. The plain versions are the references of the tests. Everything is float32 on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, silu

from luthier.kernels.native import call


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last axis `[..., D]`; Gemma's offset is 1."""
    result: Tensor = _RmsNorm.apply(x, weight, eps, offset)  # type: ignore[no-untyped-call]
    return result


def rms_norm_plain(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0) -> Tensor:
    """The same by definition."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (offset + weight)


class _RmsNorm(torch.autograd.Function):
    """Saves the input, and a number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        rows = x.contiguous()
        y, scales = torch.empty_like(rows), rows.new_empty(rows.shape[:-1])
        call("rms_norm", y, scales, rows, weight, offset, eps, scales.numel(), rows.shape[-1])
        ctx.offset = offset
        ctx.save_for_backward(rows, weight, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scales = ctx.saved_tensors
        slope = grads[0].contiguous()
        found, trained = torch.empty_like(x), None
        call("rms_norm_backward", found, slope, x, weight, scales, ctx.offset, scales.numel(), x.shape[-1])
        if ctx.needs_input_grad[1]:
            trained = (slope * x * scales[..., None]).flatten(0, -2).sum(0)
        return found, trained, None, None


def gated(gate: Tensor, up: Tensor, *, gelu_gate: bool = False) -> Tensor:
    """silu(gate) * up, or gelu(gate) * up in its tanh form; tensors of one shape."""
    result: Tensor = _Gated.apply(gate, up, gelu_gate)  # type: ignore[no-untyped-call]
    return result


def gated_plain(gate: Tensor, up: Tensor, *, gelu_gate: bool = False) -> Tensor:
    """The same by definition."""
    return (gelu(gate, approximate="tanh") if gelu_gate else silu(gate)) * up


class _Gated(torch.autograd.Function):
    """Saves its two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu_gate: bool) -> Tensor:  # noqa: FBT001 - autograd has no names
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        call("gated", y, gate, up, gate.numel(), int(gelu_gate))
        ctx.gelu_gate = gelu_gate
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        call("gated_backward", of_gate, of_up, grads[0].contiguous(), gate, up, gate.numel(), int(ctx.gelu_gate))
        return of_gate, of_up, None
