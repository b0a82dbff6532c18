"""First values of LoRA's matrices that need more than random numbers.

PiSSA and OLoRA start with a product B0 A0 that is a part of the weight W. Their papers take that part out of the
weight, so that training begins at W; the base is then another model, in low precision not even equal to W when both
are added up again. Here the base stays as it is and the layer computes W x + s (B A - B0 A0) x, with A0 and B0 frozen:
the same function and the same gradients. Written side by side, [A; A0] and [B, -B0] are a plain LoRA of twice the
rank, which is how they are computed and saved: any peft loads it on the untouched base, equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.adapters.base import Run
from luthier.adapters.peft_part import in_float32, save_adapter, set_weights
from luthier.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

DISPLACED = ("pissa", "olora")
"""Starts whose product is not zero."""

MOST_BATCHES = 200
"""Micro-batches after which EVA must have settled; a few usually do."""

NAME = "default"
"""What peft calls the only adapter."""


# ---- a start that is taken away again (PiSSA, OLoRA) ---------------------------------------------------------------


class Displaced:
    """What peft calls a variant of LoRA: how a layer with A0 and B0 computes, and how it is merged."""

    @staticmethod
    def supports_lora_conversion() -> bool:
        """It is a difference of two LoRAs."""
        return False

    @staticmethod
    def forward(module: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """result `[B, T, out]` + s [B, -B0] [A; A0] x, as a plain LoRA of twice the rank computes it."""
        from torch.nn.functional import linear

        wide_a, wide_b = _doubled(module)
        update = linear(linear(module.lora_dropout[active_adapter](x), wide_a), wide_b)
        added: Tensor = result + update * module.scaling[active_adapter]
        return added

    @staticmethod
    def merge_safe(module: Any, _: str, orig_weight: Tensor) -> Tensor:
        """A new weight."""
        return orig_weight + _delta(module).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, _: str, orig_weight: Tensor) -> None:
        """The weight itself."""
        orig_weight.data += _delta(module).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: Any, _: str, orig_weight: Tensor) -> Tensor:
        """The weight as it was, up to rounding."""
        return orig_weight.data - _delta(module).to(orig_weight.dtype)


def _doubled(module: Any) -> tuple[Tensor, Tensor]:
    """[A; A0] `[2r, in]` and [B, -B0] `[out, 2r]`."""
    import torch

    return (
        torch.cat([module.lora_A[NAME].weight, module.start_a]),
        torch.cat([module.lora_B[NAME].weight, -module.start_b], dim=1),
    )


def _delta(module: Any) -> Tensor:
    wide_a, wide_b = _doubled(module)
    delta: Tensor = (wide_b @ wide_a).detach() * module.scaling[NAME]
    return delta


def displace(model: Any, start: str | None) -> None:
    """Give every layer its first A and B by peft, and remember them as A0 and B0; None: `load_displaced` will.

    Raises:
        ModelError: the rank is larger than a weight has.
    """
    for name, layer in layers(model):
        weight = layer.get_base_layer().weight
        if start is not None:
            kept = weight.data.clone()
            if start == "pissa":
                layer.pissa_init(NAME, start)
            else:
                layer.olora_init(NAME)
            weight.data = kept  # peft has taken B0 A0 out of it
        a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        if len(a) < layer.r[NAME]:
            raise ModelError(f"adapter.rank: {name} has {len(a)} singular values only; lower it, or start from default")
        a.data, b.data = a.data.contiguous(), b.data.contiguous()
        layer.register_buffer("start_a", a.data.clone(), persistent=False)
        layer.register_buffer("start_b", b.data.clone(), persistent=False)
        layer.lora_variant[NAME] = Displaced()


def save_displaced(model: Any, folder: Path) -> None:
    """The plain LoRA of twice the rank."""
    weights = model.state_dict()
    for name, layer in layers(model):
        wide_a, wide_b = _doubled(layer)
        weights[f"{name}.lora_A.{NAME}.weight"], weights[f"{name}.lora_B.{NAME}.weight"] = wide_a, wide_b
    save_adapter(model, folder, state_dict=weights)
    settings = copy(model.peft_config[NAME])
    settings.r, settings.lora_alpha = 2 * settings.r, settings.lora_alpha * _growth(settings)
    settings.inference_mode = True
    settings.save_pretrained(str(folder))


def load_displaced(model: Any, weights: dict[str, Tensor], source: Path) -> None:
    """Cut a LoRA of twice the rank into both halves.

    Raises:
        ModelError: it has another rank.
    """
    for name, layer in layers(model):
        for kind, start, dim, sign in (("A", layer.start_a, 0, 1), ("B", layer.start_b, 1, -1)):
            key = f"{name}.lora_{kind}.weight"
            both, rank = weights[key], layer.r[NAME]
            if both.shape[dim] != 2 * rank:
                raise ModelError(f"{source}: {key} has rank {both.shape[dim]}, not twice {rank}")
            weights[key] = both.narrow(dim, 0, rank).contiguous()
            start.copy_(sign * both.narrow(dim, rank, rank))
    set_weights(model, weights, source)


def halved(settings: Any) -> Any:
    """The settings of the adapter that was saved by `save_displaced`."""
    own = copy(settings)
    own.r, own.lora_alpha = settings.r // 2, round(settings.lora_alpha / _growth(settings), 9)
    return own


def _growth(settings: Any) -> float:
    """What alpha grows by when the rank doubles and the scale stays."""
    return 2**0.5 if settings.use_rslora else 2.0


def layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Every layer with LoRA matrices, by its name."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def whole_modules(model: Any) -> dict[str, list[Any]]:
    """The weights of modules that are trained as a whole, by the names of the modules; tied modules share theirs."""
    from peft.utils import ModulesToSaveWrapper

    found = ((name, module) for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper))
    return {name: list(module.modules_to_save.parameters()) for name, module in found}


# ---- EVA -----------------------------------------------------------------------------------------------------------


def eva(model: Any, run: Run) -> None:
    """Let peft measure the inputs of every layer and share out the ranks.

    Raises:
        ModelError: there are no rows to measure on, or they are too few or too alike.
    """
    from peft import initialize_lora_eva_weights

    batches = run.calibrate(model)
    count = 0

    def forward(_: Any, __: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_BATCHES or next(batches, _END) is _END:
            raise ModelError(
                f"adapter.init_lora_weights: eva did not settle in {count - 1} micro-batches: give it more rows, more "
                "tokens in a micro-batch (train.micro_batch_tokens), a lower rank, or start from another one"
            )

    largest = min(layer.in_features for _, layer in layers(model))
    settings = model.peft_config[NAME]
    if settings.r * settings.eva_config.rho > largest:
        raise ModelError(
            f"adapter.rank: {settings.r} times eva_rho ({settings.eva_config.rho:g}) is more than the {largest} inputs "
            "of the narrowest layer, which has no more directions; lower one of them"
        )
    with _quiet():
        initialize_lora_eva_weights(
            model,
            dataloader=[{}],  # peft asks for batches, which only `calibrate` sees
            forward_fn=forward,
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            gather_distributed_inputs=False,  # every rank measures the same rows
            show_progress_bar=False,
        )
    in_float32(model)


_END = object()


def _quiet() -> Any:
    """peft prints a line for each layer and each micro-batch that is too short."""
    from contextlib import redirect_stdout
    from io import StringIO

    return redirect_stdout(StringIO())


def with_ranks_of(checkpoint: Path, settings: Any) -> Any:
    """The settings with ranks as they were measured when a run began."""
    from peft import LoraConfig

    measured = LoraConfig.from_pretrained(str(checkpoint))
    settings.target_modules = measured.target_modules
    settings.rank_pattern, settings.alpha_pattern = measured.rank_pattern, measured.alpha_pattern
    return settings
