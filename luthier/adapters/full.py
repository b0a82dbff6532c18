"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from luthier.adapters.base import UNKNOWN_RUN, Adapter, Model, Run
from luthier.adapters.merge import merge
from luthier.errors import ModelError


class Full(Adapter):
    """Train every weight of the model, in float32."""

    type: Literal["full", "freeze"] = "full"

    learning_rates: ClassVar[tuple[float, float]] = (1e-7, 3e-4)
    trains_base: ClassVar[bool] = True

    def attach(self, model: Model, run: Run = UNKNOWN_RUN) -> Model:
        """Unfreeze everything; an adapter that the model carries becomes part of its weights first.

        Raises:
            ModelError: the adapter is of a kind that cannot.
        """
        model = merge(model)
        for parameter in model.parameters():
            parameter.requires_grad = True
        return model.float() if run.widened else model

    def save(self, model: Model, folder: Path) -> None:
        """The model as transformers writes it, in safetensors."""
        model.save_pretrained(folder)

    def load(self, model: Model, folder: Path) -> None:
        """Read the safetensors files back into the model."""
        from safetensors.torch import load_file

        weights = {
            name: tensor
            for file in sorted(folder.glob("model*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        outcome = model.load_state_dict(weights, strict=False)
        missing = set(outcome.missing_keys) - set(model.all_tied_weights_keys)
        if missing or outcome.unexpected_keys:
            raise ModelError(
                f"{folder}: the weights do not fit this model: {sorted(missing or outcome.unexpected_keys)[:3]}"
            )
