"""Each kernel beside its plain version, forward and backward: `python -m benchmarks.kernels [--tokens 512]`.

At the sizes of SmolLM2 (width 576, 1536 inside, 9 heads on 3), in float32. Seconds are those of the processor, the
least of several turns that alternate, so that others who use the machine disturb little. Errors are against float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.common import machine, print_table
from luthier.kernels import native
from luthier.kernels.attention import segment_attention
from luthier.kernels.fused import gated, gated_plain, rms_norm, rms_norm_plain
from luthier.kernels.lora import Adapted, lora_linears, lora_linears_plain
from luthier.kernels.tiles import tiled_attention

WIDTH, INSIDE, HEADS, KV_HEADS, HEAD, RANK = 576, 1536, 9, 3, 64, 8
TURNS = 8
Compute = Callable[..., Tensor]


class Case(NamedTuple):
    """A kernel, its plain version, and what both are given."""

    name: str
    fast: Compute
    plain: Compute
    given: Sequence[Tensor]


def found(compute: Compute, given: Sequence[Tensor]) -> list[Tensor]:
    """The outcome, and its slopes."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    outcome = compute(*leaves)
    slope = torch.ones_like(outcome)
    return [outcome.detach(), *torch.autograd.grad(outcome, leaves, slope)]


def lora(tokens: int, inputs: int, outputs: Sequence[int], name: str) -> Case:
    """Adapted layers on one input."""
    weights = [torch.randn(n, inputs) / inputs**0.5 for n in outputs]
    thin = [torch.randn(*shape) / inputs**0.5 for n in outputs for shape in ((RANK, inputs), (n, RANK))]

    def by(compute: Callable[..., tuple[Tensor, ...]]) -> Compute:
        def run(x: Tensor, *thin: Tensor) -> Tensor:
            layers = [Adapted(w.to(x), None, thin[2 * i], thin[2 * i + 1], 2.0) for i, w in enumerate(weights)]
            return torch.cat(compute(x, layers), dim=-1)

        return run

    return Case(f"lora: {name}", by(lora_linears), by(lora_linears_plain), [torch.randn(1, tokens, inputs), *thin])


def attention(pieces: tuple[tuple[int, int | None], ...], name: str) -> Case:
    """A packed row."""
    module, tokens = nn.Module(), sum(length for length, _ in pieces)
    given = [torch.randn(1, tokens, n, HEAD).transpose(1, 2) for n in (HEADS, KV_HEADS, KV_HEADS)]
    fast, plain = (
        lambda q, k, v, compute=compute: compute(module, q, k, v, None, pieces=pieces)[0]
        for compute in (tiled_attention, segment_attention)
    )
    return Case(f"attention: {name}", fast, plain, given)


def cases(tokens: int) -> list[Case]:
    """Everything that is measured."""
    third = tokens // 3
    listed = [
        lora(tokens, WIDTH, (WIDTH, KV_HEADS * HEAD, KV_HEADS * HEAD), "q, k, v"),
        lora(tokens, WIDTH, (INSIDE, INSIDE), "gate, up"),
        lora(tokens, INSIDE, (WIDTH,), "down"),
    ]
    if native.reason() is None:
        norm = [torch.randn(1, tokens, WIDTH), torch.randn(WIDTH)]
        inner = [torch.randn(1, tokens, INSIDE), torch.randn(1, tokens, INSIDE)]
        listed += [
            Case("norm", lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: rms_norm_plain(x, w, 1e-5), norm),
            Case("gated", gated, gated_plain, inner),
            attention(((tokens, None),), "one piece"),
            attention(((third, None), (third, None), (tokens - 2 * third, None)), "three pieces"),
            attention(((third, None), (third, 0), (tokens - 2 * third, 0)), "a prompt, two answers"),
        ]
    return listed


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}; {torch.get_num_threads()} threads; native helpers: {native.state()}")
    rows = []
    for case in cases(options.tokens):
        exact = found(case.plain, [tensor.double() for tensor in case.given])
        errors, seconds = [], [float("inf")] * 2
        for compute in (case.plain, case.fast):
            pairs = zip(found(compute, case.given), exact, strict=True)
            errors.append(max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs))
        for _ in range(TURNS):
            for place, compute in enumerate((case.plain, case.fast)):
                started = time.process_time()
                found(compute, case.given)
                seconds[place] = min(seconds[place], time.process_time() - started)
        rows.append(
            (case.name, *(1e3 * s for s in seconds), f"{seconds[0] / seconds[1]:.2f} x", *(f"{e:.0e}" for e in errors))
        )
    print_table(("forward and backward", "plain ms", "kernel ms", "speed", "plain error", "kernel error"), rows)


if __name__ == "__main__":
    main()
