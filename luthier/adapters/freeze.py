"""Train a part of the model's own weights: its last or first layers, or modules chosen by name; the rest is frozen."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from luthier.adapters.base import UNKNOWN_RUN, Model, Run
from luthier.adapters.full import Full
from luthier.errors import ModelError


class Freeze(Full):
    """Train the layers and modules named here, in float32; saved as a plain transformers model."""

    type: Literal["freeze"] = "freeze"
    last_layers: Annotated[int, Field(ge=0)] = 0
    """Train so many of the decoder's last layers."""
    first_layers: Annotated[int, Field(ge=0)] = 0
    """Train so many of the decoder's first layers."""
    modules: list[str] = Field(default=[])
    """Train weights whose name fits a pattern, for example `["*norm*", "lm_head.*"]`; tied weights have both names."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.last_layers or self.first_layers or self.modules):
            raise ValueError(
                "nothing would be trained: write last_layers, first_layers or modules, for example last_layers: 2"
            )
        return self

    def attach(self, model: Model, run: Run = UNKNOWN_RUN) -> Model:
        """Freeze all but what was asked for.

        Raises:
            ModelError: the model has fewer layers, or no weight fits a pattern.
        """
        model = super().attach(model, run)
        chosen = {id(parameter) for parameter in self._chosen(model)}
        for parameter in model.parameters():
            parameter.requires_grad = id(parameter) in chosen
        return model

    def _chosen(self, model: Any) -> list[Any]:
        layers = decoder_layers(model)
        if max(self.first_layers, self.last_layers) > len(layers):
            raise ModelError(f"adapter: the model has {len(layers)} layers; lower first_layers or last_layers")
        count = len(layers)
        picked = [*layers[: self.first_layers], *layers[count - self.last_layers :]]
        chosen = [parameter for layer in picked for parameter in layer.parameters()]
        named = list(model.named_parameters(remove_duplicate=False))
        for pattern in self.modules:
            found = [
                parameter for name, parameter in named if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
            ]
            if not found:
                raise ModelError(
                    f"adapter.modules: no weight fits {pattern!r}; the model has, for example, {named[0][0]}"
                )
            chosen += found
        return chosen


def decoder_layers(model: Any) -> Any:
    """The list of the decoder's layers.

    Raises:
        ModelError: there is none of the length that the model's config says.
    """
    from torch import nn

    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"adapter: {type(model).__name__} has no list of {count} layers; choose weights by modules instead"
    )
