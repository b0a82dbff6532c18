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

from luthier.distributed.layers import base_of
from luthier.errors import UserError
from luthier.kernels import attention, native, tiles
from luthier.kernels.fused import gated, rms_norm
from luthier.kernels.lora import Adapted, lora_linears

Kernels = Literal["auto", "plain"] | Sequence[Literal["lora", "norm", "gated", "attention"]]
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that are given one input, in the order in which they are called."""
FAMILIES = ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma3")
NORMS = {f"{name}RMSNorm": 1.0 if name.startswith("Gemma") else 0.0 for name in FAMILIES}
"""Classes of norms, and what they add to their weight."""
GATED = {f"{name}MLP" for name in FAMILIES}
GATES = {"SiLU": False, "SiLUActivation": False, "GELUTanh": True, "PytorchGELUTanh": True}
"""Classes of activations, and whether they are GELU."""


def quicken(model: Any, kernels: Kernels, *, helpers: bool = True) -> list[str]:
    """Let the modules of a model on the CPU compute by kernels, in place; returns the names of those in use.

    Without `helpers`, those of `native.c` are not used though they may be there, since other processes lack them.

    Raises:
        UserError: a kernel that the config names cannot be had here.
    """
    every: dict[str, Callable[[Any], bool]] = {"lora": _lora, "norm": _norms, "gated": _gates, "attention": _attention}
    if kernels == "plain":
        return []
    missing = native.reason() if helpers else "one of the processes has no native helpers; see luthier doctor there"
    if not isinstance(kernels, str) and missing and set(kernels) - {"lora"}:
        raise UserError(f"train.kernels: {', '.join(kernels)}: {missing}; write auto or [lora]")
    wanted = [*every] if kernels == "auto" else kernels
    return [name for name in every if name in wanted and (name == "lora" or not missing) and every[name](model)]


def plain(model: Any) -> None:
    """Undo what `quicken` did: who is given a tuned model has nothing but transformers and peft."""
    for module in model.modules():
        if isinstance(module, Quick):
            module.__class__ = type(module).__bases__[1]
    base = base_of(model)
    if base.config.get_text_config()._attn_implementation == tiles.NAME:
        base.set_attn_implementation(attention.NAME)


class Quick:
    """What modules that a kernel computes have in common."""


def _computing(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Give a module a subclass of its own class with another `forward`."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (Quick, kind), {"forward": forward, "__module__": kind.__module__})


def _asked(x: Tensor) -> bool:
    """Whether this is a pass that a kernel computes: with gradients, in float32, on the CPU."""
    return torch.is_grad_enabled() and x.dtype == torch.float32 and x.is_cpu and not torch.is_autocast_enabled("cpu")


def _whole(*weights: Tensor) -> bool:
    return all(type(weight) is nn.Parameter and weight.dtype == torch.float32 for weight in weights)


# ---- what native.c computes -----------------------------------------------------------------------------------------


def _norms(model: Any) -> bool:
    found = [m for m in model.modules() if type(m).__name__ in NORMS and _whole(m.weight)]
    fit = [module for module in found if module.weight.numel() % native.lanes() == 0]
    for module in fit:
        _computing(module, _norm_forward(type(module)))
    return bool(fit)


def _norm_forward(kind: Any) -> Callable[..., Tensor]:
    offset, name = NORMS[kind.__name__], "eps" if NORMS[kind.__name__] else "variance_epsilon"

    def forward(self: Any, x: Tensor) -> Any:
        return rms_norm(x, self.weight, getattr(self, name), offset=offset) if _asked(x) else kind.forward(self, x)

    return forward


def _gates(model: Any) -> bool:
    found = [m for m in model.modules() if type(m).__name__ in GATED and type(m.act_fn).__name__ in GATES]
    fit = [module for module in found if module.intermediate_size % native.lanes() == 0]
    for module in fit:
        _computing(module, _gated_forward(type(module), GATES[type(module.act_fn).__name__]))
    return bool(fit)


def _gated_forward(kind: Any, gelu_gate: bool) -> Callable[..., Tensor]:  # noqa: FBT001
    def forward(self: Any, x: Tensor) -> Any:
        if not _asked(x):
            return kind.forward(self, x)
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x), gelu_gate=gelu_gate))

    return forward


def _attention(model: Any) -> bool:
    """Of models whose attention is already ours; it goes piece by piece where tiles do not fit."""
    base = base_of(model)
    sizes = base.config.get_text_config()
    width = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    if sizes._attn_implementation != attention.NAME or width % (2 * native.lanes()):
        return False
    tiles.register()
    base.set_attn_implementation(tiles.NAME)
    return True


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
    frozen = not any(parameter.requires_grad for parameter in base.parameters())
    return _whole(*weights) and frozen and not hooked and layer.lora_B[names[0]].bias is None


def _dropout(layer: Any) -> float:
    return float(getattr(layer.lora_dropout[layer.active_adapters[0]], "p", 0.0))


def _adapted(layer: Any) -> Adapted:
    name, base = layer.active_adapters[0], layer.base_layer
    return Adapted(
        base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
    )
