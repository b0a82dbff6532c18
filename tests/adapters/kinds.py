"""Every kind of adapter in a small form, and what each must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LAYERS, HIDDEN, INNER, KEYS = 2, 64, 128, 32
"""Of the tiny model: layers, width, width of the MLP, and width of keys and values."""
LINEAR = [(HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN), (HIDDEN, INNER), (HIDDEN, INNER)]
LINEAR = [*LINEAR, (INNER, HIDDEN)]
"""Inputs and outputs of the linear layers of each decoder layer: q, k, v, o, gate, up, down."""
INS, OUTS = sum(i for i, _ in LINEAR), sum(o for _, o in LINEAR)
LAYER = sum(i * o for i, o in LINEAR) + 2 * HIDDEN
"""Weights of a decoder layer, its two norms among them."""


@dataclass(frozen=True)
class Kind:
    """A config of an adapter, and what is to be expected of it."""

    settings: dict[str, Any]
    trained: Callable[[int], int]
    """How many parameters are trained, for a vocabulary of some size."""
    rate: float = 1e-2
    start: float | None = 0.0
    """How far the outputs at step 0 may be from the base's; None: they are others."""
    merges: bool = True
    frozen_base: bool = True
    extra: tuple[str, ...] = ()
    """Files in a checkpoint besides the usual."""
    bits: int | None = None


def _lora(rank: int) -> int:
    return LAYERS * rank * (INS + OUTS)


LORA = {"type": "lora", "rank": 4}
BOTTLENECK = 2 * HIDDEN * 8 + HIDDEN + 8

KINDS: dict[str, Kind] = {
    "lora": Kind(LORA, lambda v: _lora(4)),
    "lora-dropout": Kind(LORA | {"dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}, lambda v: 8 * (128 + 96)),
    "rslora": Kind(LORA | {"use_rslora": True, "loraplus_lr_ratio": 4.0}, lambda v: _lora(4)),
    "dora": Kind(LORA | {"use_dora": True}, lambda v: _lora(4) + LAYERS * OUTS),
    "pissa": Kind(LORA | {"init_lora_weights": "pissa"}, lambda v: _lora(4), start=2e-6),
    "olora": Kind(LORA | {"init_lora_weights": "olora", "use_rslora": True}, lambda v: _lora(4), 1e-3, start=2e-6),
    "orthogonal": Kind(LORA | {"init_lora_weights": "orthogonal"}, lambda v: _lora(4), start=2e-6),
    "eva": Kind(LORA | {"init_lora_weights": "eva", "eva_rho": 1.0}, lambda v: _lora(4)),
    "modules": Kind(
        LORA | {"modules_to_save": ["lm_head", "norm"]},
        lambda v: _lora(4) + HIDDEN * v + (2 * LAYERS + 1) * HIDDEN,
        2e-3,
    ),
    "adalora": Kind(
        {"type": "adalora", "init_r": 6, "target_r": 4, "alpha": 60, "tinit": 2, "tfinal": 1},
        lambda v: LAYERS * 6 * (INS + OUTS + len(LINEAR)),
        0.05,
        extra=("adalora.safetensors",),
    ),
    "houlsby": Kind({"type": "bottleneck", "bottleneck_size": 8}, lambda v: 2 * LAYERS * BOTTLENECK, merges=False),
    "pfeiffer": Kind(
        {"type": "bottleneck", "placement": "pfeiffer", "bottleneck_size": 8, "non_linearity": "gelu"},
        lambda v: LAYERS * BOTTLENECK,
        merges=False,
    ),
    "prefix": Kind(
        {"type": "prefix", "num_virtual_tokens": 5}, lambda v: 5 * 2 * LAYERS * KEYS, 0.1, start=None, merges=False
    ),
    "prefix-projection": Kind(
        {"type": "prefix", "num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 16},
        lambda v: 5 * KEYS + (KEYS + 1) * 16 + 17 * 2 * LAYERS * KEYS,
        start=None,
        merges=False,
        extra=("prompt_encoder.safetensors",),
    ),
    "prompt": Kind({"type": "prompt", "num_virtual_tokens": 5}, lambda v: 5 * HIDDEN, 0.1, start=None, merges=False),
    "p-tuning": Kind(
        {"type": "p-tuning", "num_virtual_tokens": 5, "encoder_hidden_size": 16},
        lambda v: 5 * HIDDEN + (HIDDEN + 1) * 16 + 17 * 16 + 17 * HIDDEN,
        start=None,
        merges=False,
        extra=("prompt_encoder.safetensors",),
    ),
    "ia3": Kind({"type": "ia3"}, lambda v: LAYERS * (2 * KEYS + INNER), 0.05),
    "oft": Kind({"type": "oft"}, lambda v: LAYERS * (INS // 32) * (32 * 31 // 2), 3e-3),
    "vera": Kind({"type": "vera", "rank": 16}, lambda v: LAYERS * (OUTS + 16 * len(LINEAR)), 0.05),
    "freeze-last": Kind({"type": "freeze", "last_layers": 1}, lambda v: LAYER, 1e-3, frozen_base=False),
    "freeze-modules": Kind(
        {"type": "freeze", "modules": ["*norm*", "lm_head"]},
        lambda v: (2 * LAYERS + 1) * HIDDEN + HIDDEN * v,
        1e-3,
        frozen_base=False,
    ),
    "full": Kind({"type": "full"}, lambda v: LAYERS * LAYER + HIDDEN + HIDDEN * v, 1e-3, frozen_base=False),
    "qlora-4": Kind({"type": "qlora", "rank": 4}, lambda v: _lora(4), bits=4),
    "qlora-8": Kind({"type": "qlora", "rank": 4, "bits": 8}, lambda v: _lora(4), bits=8),
}
