"""Attention over packed rows, segment by segment, through the attention registry of transformers.

Each segment attends to itself alone with torch's causal kernel: exact by construction, linear in the number of
segments, and no `[T, T]` mask is ever built. Without segments it is plain causal attention; with a padding mask
(generation) it is sdpa with the mask that transformers builds.
"""

from __future__ import annotations

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
    segments: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`query` `[B, H, T, D]`, `key` and `value` `[B, K, S, D]` to `[B, T, H, D]`; `segments` sum up to `T`.

    Raises:
        NotImplementedError: the model asks for a variant that torch's kernel does not have.
    """
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attention argument {name} of {type(module).__name__}")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        causal = attention_mask is None and q.shape[2] > 1
        mask = attention_mask
        if causal and sliding_window is not None and q.shape[2] > sliding_window:
            mask, causal = banded(q.shape[2], sliding_window, q.device), False
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    if segments is None:
        return attend(query, key, value).transpose(1, 2).contiguous(), None
    pieces = zip(*(torch.split(tensor, list(segments), dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([attend(*piece) for piece in pieces], dim=2).transpose(1, 2).contiguous(), None


def banded(length: int, window: int, device: torch.device) -> Tensor:
    """True `[T, T]` where a position may look: itself and the `window - 1` before it."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)
