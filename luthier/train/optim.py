"""Optimizers: each a settings class with `build`, and a line in `plugins.BUILT_IN`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from luthier.plugins import Part

if TYPE_CHECKING:
    import torch
    from torch import nn


@runtime_checkable
class OptimizerSettings(Protocol):
    """The config part of an optimizer."""

    type: str

    def build(self, parameters: dict[str, nn.Parameter], *, weight_decay: float) -> torch.optim.Optimizer:
        """The optimizer of these parameters; the loop sets the learning rate before each step."""


class AdamW(Part):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), torch's fused version."""

    type: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""

    def build(self, parameters: dict[str, nn.Parameter], *, weight_decay: float) -> torch.optim.Optimizer:
        """AdamW over two groups: with and without decay."""
        import torch

        return torch.optim.AdamW(
            decay_groups(parameters, weight_decay), lr=0.0, betas=self.betas, eps=self.eps, fused=True
        )


def decay_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases (one-dimensional weights) are never decayed."""
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    plain = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
