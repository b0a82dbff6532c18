"""Gradient checkpointing: activations that are computed again in the backward pass, not kept (arXiv:1604.06174)."""

from __future__ import annotations

import warnings
from typing import Any

from luthier.errors import ModelError


def recompute_layers(model: Any, every: int) -> None:
    """Let every n-th decoder layer, from the first on, keep its input only; gradients stay the same, bit for bit.

    Raises:
        ModelError: the model cannot.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its later name is not in all versions
            model.gradient_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    except ValueError as error:
        raise ModelError(f"train.gradient_checkpointing: {error}; write false") from None
