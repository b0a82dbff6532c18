"""Attention over packed rows, piece by piece, through the attention registry of transformers.

Each piece attends to itself (and to the pieces it continues, such as a prompt that several answers share) with torch's
kernel: exact by construction, linear in the number of pieces, and no mask over the whole row is ever built. Without
pieces it is plain causal attention; with a padding mask (generation) it is sdpa with the mask that transformers builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "luthier"
"""Under which it is registered; a model uses it after `set_attn_implementation(NAME)`."""

UNSUPPORTED = ("softcap", "s_aux")
"""Arguments of attention variants that torch's kernel does not have; models that pass them run plain."""


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, padding_mask)


def padding_mask(**kwargs: Any) -> Tensor | None:
    """No mask where nothing is padded and no cache is filled; else the mask of transformers' sdpa."""
    from transformers.masking_utils import sdpa_mask

    if kwargs.get("attention_mask") is None and kwargs.get("q_length") == kwargs.get("kv_length"):
        return None
    mask: Tensor | None = sdpa_mask(**kwargs)
    return mask


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    pieces: Sequence[tuple[int, int | None]] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`query` `[B, H, T, D]`, `key` and `value` `[B, K, S, D]` to `[B, T, H, D]`.

    `pieces` are (length, number of the piece before it or None), in the order in which they stand in the row.

    Raises:
        NotImplementedError: the model asks for a variant that torch's kernel does not have.
    """
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attention argument {name} of {type(module).__name__}")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Lower right: the last of `q` sees all of `k`."""
        mask, causal, seen = attention_mask, attention_mask is None, k.shape[2]
        if causal and (seen > q.shape[2] or (sliding_window is not None and seen > sliding_window)):
            mask, causal = banded(q.shape[2], seen, sliding_window, q.device), False
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal and seen > 1,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    if pieces is None:
        return attend(query, key, value).transpose(1, 2).contiguous(), None
    lengths = [length for length, _ in pieces]
    queries, keys, values = (list(torch.split(tensor, lengths, dim=2)) for tensor in (query, key, value))
    for number, (_, parent) in enumerate(pieces):
        if parent is not None:
            keys[number] = torch.cat([keys[parent], keys[number]], dim=2)
            values[number] = torch.cat([values[parent], values[number]], dim=2)
    found = [attend(*piece) for piece in zip(queries, keys, values, strict=True)]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def banded(length: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """True `[T, S]` where the last `length` of `seen` positions may look: at themselves and (`window` - 1) before."""
    place = torch.arange(seen, device=device)
    distance = place[seen - length :, None] - place[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)
