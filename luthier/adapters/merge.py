"""An adapter as part of its model's own weights: on the full-precision base, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.config import ModelConfig
from luthier.errors import ModelError, OutputError
from luthier.models.find import Found, find
from luthier.registry.index import place_of
from luthier.registry.origin import say_origin
from luthier.system.files import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEVER = {
    "PREFIX_TUNING": "its prefix stands in front of the keys and values of every row",
    "PROMPT_TUNING": "its virtual tokens stand in front of every row",
    "P_TUNING": "its virtual tokens stand in front of every row",
    "BOTTLENECK": "its layers bend what they are given",
}
"""Kinds of peft that are no change of the weights, and what they are instead."""


def merged(path: str, *others: str) -> PreTrainedModel:
    """The model of a tuned folder with its adapter merged, on the base in full precision, whatever it was tuned on.

    The updates of further LoRA adapters on the same base are added: W + dW1 + dW2 (task arithmetic, Ilharco et al.
    2022, arXiv:2212.04089, with weights of 1).

    Raises:
        ModelError: one cannot be loaded, holds no adapter, one of a kind that is no change of the weights, or several
            cannot be added.
    """
    from peft import PeftModel

    from luthier.models.load import ModelLoader

    found = [_adapter_of(folder) for folder in (path, *others)]
    for folder, own in zip(others, found[1:], strict=True):
        if (own.kind, own.location, own.revision) != (found[0].kind, found[0].location, found[0].revision):
            raise ModelError(
                f"{folder}: stands on {own.location}, and {path} on {found[0].location}; they cannot be added"
            )
    model: Any = ModelLoader().load(ModelConfig(path=path, dtype="float32"))
    if others:
        _require_addable(path, model.peft_config[model.active_adapter])
    model = merge(model)
    for folder, own in zip(others, found[1:], strict=True):
        more = PeftModel.from_pretrained(model, str(own.adapter))
        _require_addable(folder, more.peft_config[more.active_adapter])
        model = merge(more)
    return cast("PreTrainedModel", model)


def _adapter_of(path: str) -> Found:
    if not (place_of(path) / "adapter_config.json").is_file():
        raise ModelError(f"{path}: holds no adapter, so there is nothing to merge; a whole model is used as it is")
    return find(path)


def _require_addable(path: str, settings: Any) -> None:
    """Updates that do not depend on the weights that they are added to."""
    kind = settings.peft_type.value.lower() + (" (DoRA)" if getattr(settings, "use_dora", False) else "")
    if kind != "lora" or settings.modules_to_save:
        whole = f" with whole modules ({settings.modules_to_save})" if settings.modules_to_save else ""
        raise ModelError(
            f"{path}: a {kind} adapter{whole} cannot be added to others, only plain lora can; merge it alone"
        )


def save_merged(path: str, folder: str, *others: str) -> dict[str, Any]:
    """Write the merged model of a tuned folder, with its tokenizer, as plain transformers loads it.

    Returns the options of its chat template, for which such a folder has no place. `others` as for `merged`.

    Raises:
        ModelError: as `merged`.
        OutputError: the folder holds something.
        StorageError: the disk refused; nothing is left behind.
    """
    from luthier.models.load import ModelLoader

    place, loader, config = Path(folder), ModelLoader(), ModelConfig(path=path)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OutputError(f"{folder}: holds something already; choose a new folder")
    model, renderer = merged(path, *others), loader.renderer(config)
    with atomic_folder(place) as new:
        model.save_pretrained(new)
        renderer.tokenizer.save_pretrained(new)
        say_origin(new, "merged", [path, *others])
    return dict(renderer.options)


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """A model without its adapter, which has become part of the weights, in float32; a plain model as it is.

    Raises:
        ModelError: the adapter is no change of the weights, or these are quantised.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    settings = model.peft_config[model.active_adapter]
    kind = settings.peft_type.value
    if kind in NEVER:
        name = kind.lower().replace("_", " ")
        raise ModelError(f"a {name} adapter cannot be merged: {NEVER[kind]}; use the tuned folder with its base")
    if getattr(model.get_base_model(), "is_quantized", False):
        raise ModelError(
            "an adapter cannot be merged into quantised weights, which would round it away; use luthier models merge"
        )
    return cast("PreTrainedModel", cast(Any, model.float()).merge_and_unload())
