"""Attention over pieces in tiles, forward and backward, by the helpers of `native.c`: the fast form of `attention`.

The scores are never held (Dao et al. 2022, arXiv:2205.14135), keys are not repeated for the heads that share them, and
all pieces of a row are one call. Everything is float32 on the CPU. The plain version is `attention.segment_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.kernels import attention
from luthier.kernels.native import call, lanes

NAME = "luthier-native"
"""Under which it is registered."""
TILE = 64
"""Keys of a tile in `native.c`."""
Pieces = Sequence[tuple[int, int | None]]


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, tiled_attention)
    AttentionMaskInterface.register(NAME, attention.padding_mask)


def tiled_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """As `segment_attention`, which computes what is not a packed row in training."""
    pieces: Pieces | None = more.get("pieces")
    plain = attention_mask is not None or len(query) > 1 or query.shape[2] != key.shape[2] or more.get("dropout")
    # in mixed precision, rotation leaves queries and keys single, and values are not
    single = query.dtype == key.dtype == value.dtype == torch.float32 and torch.is_grad_enabled()
    fit = query.shape[-1] % (2 * lanes()) == 0 and all(more.get(name) is None for name in attention.UNSUPPORTED)
    if plain or not single or not fit:
        return attention.segment_attention(module, query, key, value, attention_mask, **more)
    scale = query.shape[-1] ** -0.5 if more.get("scaling") is None else more["scaling"]
    row = tuple(pieces or [(query.shape[2], None)])
    found: Tensor = _Tiled.apply(query[0], key[0], value[0], row, more.get("sliding_window") or 0, scale)  # type: ignore[no-untyped-call]
    return found[None], None


@lru_cache(maxsize=64)
def places(pieces: tuple[tuple[int, int | None], ...]) -> tuple[Tensor, Tensor, int, int]:
    """How `native.c` is told of pieces: a line for each, the places of their keys, how many trees, most keys of one."""
    lines: list[list[int]] = []
    keys: list[Tensor] = []
    trees = start = begin = 0
    for length, parent in pieces:
        own = torch.arange(start, start + length)
        keys.append(own if parent is None else torch.cat([keys[parent], own]))
        lines.append([start, length, begin, len(keys[-1]), trees if parent is None else lines[parent][4]])
        trees += parent is None
        start, begin = start + length, begin + len(keys[-1])
    return torch.tensor(lines), torch.cat(keys), trees, max(map(len, keys))


class _Tiled(torch.autograd.Function):
    """Saves queries, keys, values, the outcome, and a number for each query and head."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, pieces: tuple[Any, ...], window: int, scale: float
    ) -> Tensor:
        q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
        heads, tokens, width = q.shape
        o, lse = q.new_empty(tokens, heads, width), q.new_empty(heads, tokens)
        ctx.pieces, ctx.window, ctx.scale = pieces, window, scale
        lines, keys, _, _ = places(pieces)
        call("attend", o, lse, q, k, v, lines, keys, len(lines), *_Tiled.rest(ctx, q, k, v))
        ctx.save_for_backward(q, k, v, o, lse)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        found = [t.new_zeros(t.shape[1], t.shape[0], t.shape[2]) for t in (q, k, v)]
        lines, keys, trees, _ = places(ctx.pieces)
        rest = _Tiled.rest(ctx, q, k, v)
        call("attend_backward", *found, grads[0].contiguous(), o, lse, q, k, v, lines, keys, len(lines), trees, *rest)
        return *(slope.transpose(0, 1) for slope in found), None, None, None

    @staticmethod
    def rest(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor | int | float, ...]:
        """What both directions are told besides: sizes, strides, and room to work in."""
        (heads, tokens, width), group = q.shape, len(q) // len(k)
        longest = max(length for length, _ in ctx.pieces)
        room = 4 * width * -(-places(ctx.pieces)[3] // TILE) * TILE + group * longest
        strides = (stride for t in (q, k, v) for stride in (t.stride(1), t.stride(0)))
        work = q.new_empty(torch.get_num_threads(), room)
        return tokens, heads, len(k), width, ctx.window, *strides, work, room, ctx.scale
