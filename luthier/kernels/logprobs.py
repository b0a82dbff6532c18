"""Log-probabilities of labels from hidden states, without ever holding `[N, V]` logits for the backward pass.

Each log-probability depends on one hidden state only, so its gradient is a vector that can be made in the forward pass
while the logits are at hand: d log p(y) / d h = W[y] - softmax(h W^T) W. The backward pass is then one
multiplication, whatever the objective does with the log-probabilities. Chunked over positions.

With smoothing e (Szegedy et al. 2016, arXiv:1512.00567, section 7) a label is (1 - e) of itself and e of all V tokens
alike: the result is (1 - e) log p(y) + e / V sum over v of log p(v).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_POSITIONS = 256
"""Positions whose logits are held at once."""


def label_logprobs(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """log p(label) `[N]` (at least float32) of hidden states `[N, D]` under a head `weight` `[V, D]`, `bias` `[V]`."""
    result: Tensor = _LabelLogProbs.apply(hidden, weight, labels, bias, smoothing)  # type: ignore[no-untyped-call]
    return result


def label_logprobs_plain(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """The same by definition; the reference of the tests."""
    return logits_to_logprobs(torch.nn.functional.linear(hidden, weight, bias), labels, smoothing=smoothing)


def logits_to_logprobs(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """log p(label) `[N]` of logits `[N, V]`, computed in at least float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = wide.gather(-1, labels[:, None])[:, 0]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * wide.mean(-1)
    return picked - wide.logsumexp(-1)


class _LabelLogProbs(torch.autograd.Function):
    """Saves one vector per position for the hidden states; recomputes the logits only for a trainable head."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, smoothing: float
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        result = torch.empty(labels.shape, dtype=wide, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        direction = torch.empty_like(hidden) if wanted else None
        middle = weight.mean(0) if wanted and smoothing else None
        for start in range(0, len(labels), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).to(wide)
            picked = logits.gather(-1, labels[part, None])
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * logits.mean(-1, keepdim=True)
            top = logits.amax(-1, keepdim=True)
            probabilities = logits.sub_(top).exp_()
            total = probabilities.sum(-1, keepdim=True)
            result[part] = (picked - top - total.log())[:, 0]
            if direction is not None:
                probabilities.div_(total)
                own = weight[labels[part]]
                own = own if middle is None else (1 - smoothing) * own + smoothing * middle
                direction[part] = own - probabilities.to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, labels, bias, direction)
        ctx.smoothing = smoothing
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None]:
        grad, smoothing = grads[0], ctx.smoothing
        hidden, weight, labels, bias, direction = ctx.saved_tensors
        grad_hidden = None if direction is None else (grad[:, None] * direction).to(hidden.dtype)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        if grad_weight is None and grad_bias is None:
            return grad_hidden, None, None, None, None
        for start in range(0, len(labels), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            states = hidden[part].to(weight.dtype)  # they may differ, where autocast is on in the forward pass only
            logits = torch.nn.functional.linear(states, weight, bias).to(grad.dtype)
            slope = torch.softmax(logits, dim=-1).mul_(-grad[part, None])
            slope.scatter_add_(-1, labels[part, None], (1 - smoothing) * grad[part, None])
            slope += smoothing / len(weight) * grad[part, None]
            if grad_weight is not None:
                grad_weight += slope.to(weight.dtype).T @ states
            if grad_bias is not None:
                grad_bias += slope.sum(0).to(grad_bias.dtype)
        return grad_hidden, grad_weight, None, grad_bias, None
