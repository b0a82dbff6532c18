"""How far a student's next-token distributions are from a teacher's, without `[N, V]` logits for the backward pass.

As with log-probabilities, the gradient with respect to a hidden state is a vector made in the forward pass, while both
distributions of a chunk are at hand. With student s, teacher t, all taken at a temperature T (logits / T):

    forward  KL(t || s) = sum t (log t - log s),   d / d student logits = (s - t) / T
    reverse  KL(s || t) = sum s (log s - log t),   d / d student logits = s (log s - log t - KL) / T

(Hinton et al. 2015, arXiv:1503.02531; Gu et al. 2024, arXiv:2306.08543).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from luthier.kernels.logprobs import CHUNK_POSITIONS

Direction = Literal["forward", "reverse"]


def divergence(
    hidden: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, *, direction: Direction, temperature: float
) -> Tensor:
    """The divergence `[N]` in nats of hidden states `[N, D]` under a head `[V, D]` from the teacher's, also `[V, E]`.

    The student's head must be frozen or its gradient is not asked for here: see `divergence_plain` for a trained one.
    """
    result: Tensor = _Divergence.apply(hidden, weight, teacher, teacher_weight, direction, temperature)  # type: ignore[no-untyped-call]
    return result


def divergence_plain(student: Tensor, teacher: Tensor, *, direction: Direction, temperature: float) -> Tensor:
    """The same by definition, of logits `[N, V]`."""
    wide = torch.promote_types(student.dtype, torch.float32)
    s = (student.to(wide) / temperature).log_softmax(-1)
    t = (teacher.to(wide) / temperature).log_softmax(-1)
    return (t.exp() * (t - s)).sum(-1) if direction == "forward" else (s.exp() * (s - t)).sum(-1)


class _Divergence(torch.autograd.Function):
    """Saves one vector per position."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher: Tensor,
        teacher_weight: Tensor,
        direction: Direction,
        temperature: float,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        result = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden)
        for start in range(0, len(hidden), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            s = (linear(hidden[part], weight).to(wide) / temperature).log_softmax(-1)
            t = (linear(teacher[part], teacher_weight).to(wide) / temperature).log_softmax(-1)
            if direction == "forward":
                result[part] = (t.exp() * (t - s)).sum(-1)
                slope = s.exp_().sub_(t.exp_())
            else:
                ratio = s - t
                s.exp_()
                result[part] = (s * ratio).sum(-1)
                slope = s.mul_(ratio.sub_(result[part, None]))
            slopes[part] = (slope / temperature).to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, None] * slopes).to(slopes.dtype), None, None, None, None, None
