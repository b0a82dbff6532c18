"""An adapter as part of its model's own weights: on the full-precision base, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.config import ModelConfig
from luthier.errors import ModelError, OutputError
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


def merged(path: str) -> PreTrainedModel:
    """The model of a tuned folder with its adapter merged, on the base in full precision, whatever it was tuned on.

    Raises:
        ModelError: it cannot be loaded, holds no adapter, or one of a kind that is no change of the weights.
    """
    from luthier.models.load import ModelLoader

    if not (Path(path).expanduser() / "adapter_config.json").is_file():
        raise ModelError(f"{path}: holds no adapter, so there is nothing to merge; a whole model is used as it is")
    return merge(ModelLoader().load(ModelConfig(path=path, dtype="float32")))


def save_merged(path: str, folder: str) -> dict[str, Any]:
    """Write the merged model of a tuned folder, with its tokenizer, as plain transformers loads it.

    Returns the options of its chat template, for which such a folder has no place.

    Raises:
        ModelError: as `merged`.
        OutputError: the folder holds something.
        StorageError: the disk refused; nothing is left behind.
    """
    from luthier.models.load import ModelLoader

    place, loader, config = Path(folder), ModelLoader(), ModelConfig(path=path)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OutputError(f"{folder}: holds something already; choose a new folder")
    model, renderer = merged(path), loader.renderer(config)
    with atomic_folder(place) as new:
        model.save_pretrained(new)
        renderer.tokenizer.save_pretrained(new)
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
