"""Which kernels a model trains with: the one place that chooses, from the machine, the config and the model.

A module that a kernel computes gets a subclass of its own class whose `forward` calls the kernel in passes with
gradients, and is the class's own in every other: what is measured, generated and saved is that of plain transformers
and peft, to the last bit. Weights, names and hooks stay where they are. A model of another family, layers that are
quantised or cut, and variants of LoRA run plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from luthier.kernels.lora import Adapted, lora_linears

Name = Literal["lora"]
Kernels = Literal["auto", "plain"] | list[Name]
NAMES: tuple[Name, ...] = ("lora",)
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that are given one input, in the order in which they are called."""


def quicken(model: Any, kernels: Kernels) -> list[str]:
    """Let the model's modules compute by kernels, in place; returns the names of those that are in use."""
    wanted = list(NAMES) if kernels == "auto" else [] if kernels == "plain" else kernels
    used = {"lora": _lora}
    return [name for name in wanted if used[name](model)]


def _computing(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Give a module a subclass of its own class with another `forward`."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _asked(x: Tensor) -> bool:
    """Whether this is a pass that a kernel computes: with gradients, in the arithmetic of the weights."""
    return torch.is_grad_enabled() and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


# ---- LoRA ---------------------------------------------------------------------------------------------------------


class _Siblings:
    """Adapted layers on one input: the first that is called computes all, the others pick theirs up."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        self.input: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}

    def output(self, layer: Any, x: Tensor) -> Tensor:
        """What a layer makes of `x`; nothing is kept once all have asked."""
        if self.input is not x or id(layer) not in self.outputs:
            self.input = x
            adapted = [_adapted(other) for other in self.layers]
            drop = self.layers[0].lora_dropout[self.layers[0].active_adapters[0]]
            rate = drop.p if isinstance(drop, nn.Dropout) and drop.training else 0.0
            self.outputs = dict(zip(map(id, self.layers), lora_linears(x, adapted, drop=rate), strict=True))
        found = self.outputs.pop(id(layer))
        if not self.outputs:
            self.input = None
        return found


def _lora(model: Any) -> bool:
    from peft.tuners.lora.layer import Linear

    done = False
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        fit = {name: child for name, child in children.items() if type(child) is Linear and _simple(child)}
        grouped = [[fit[name] for name in names] for names in SIBLINGS if all(name in fit for name in names)]
        alike = [group for group in grouped if len({_dropout(layer) for layer in group}) == 1]
        together = {id(layer) for group in alike for layer in group}
        for group in [*alike, *([layer] for layer in fit.values() if id(layer) not in together)]:
            shared = _Siblings(group)
            forward = _lora_forward(shared)
            for layer in group:
                _computing(layer, forward)
                done = True
    return done


def _lora_forward(shared: _Siblings) -> Callable[..., Tensor]:
    plain = type(shared.layers[0]).forward

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or self.disable_adapters or self.merged or not _asked(x):
            return plain(self, x, *args, **kwargs)
        return shared.output(self, x)

    return forward


def _simple(layer: Any) -> bool:
    """Whether it is an update of a frozen linear layer in float32 as its paper has it, and all of it here."""
    base = layer.base_layer
    names = list(layer.active_adapters)
    if type(base) is not nn.Linear or len(names) != 1 or names[0] not in layer.lora_A or layer.lora_variant:
        return False
    parts = (base, layer.lora_A[names[0]], layer.lora_B[names[0]])
    weights = [parameter for part in parts for parameter in part.parameters()]
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    whole = all(type(weight) is nn.Parameter and weight.dtype == torch.float32 for weight in weights)
    frozen = not any(parameter.requires_grad for parameter in base.parameters())
    return whole and frozen and not hooked and layer.lora_B[names[0]].bias is None


def _dropout(layer: Any) -> float:
    return float(getattr(layer.lora_dropout[layer.active_adapters[0]], "p", 0.0))


def _adapted(layer: Any) -> Adapted:
    name, base = layer.active_adapters[0], layer.base_layer
    return Adapted(
        base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
    )
