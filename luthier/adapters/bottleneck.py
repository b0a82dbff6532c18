"""Bottleneck adapters: small networks behind the layers of a frozen model (Houlsby et al. 2019, arXiv:1902.00751).

The layers and how peft saves and loads them are in `luthier.models.bottleneck`; plain peft loads a tuned folder after
`import luthier.models.bottleneck`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.adapters.base import Run, peft_task
from luthier.adapters.peft_part import PeftPart
from luthier.errors import ModelError

ATTENTION = ("o_proj", "out_proj", "attn.c_proj", "self_attn.dense", "attention.dense", "self_attention.dense")
MLP = ("down_proj", "fc2", "fc_out", "mlp.c_proj", "dense_4h_to_h")
"""What the last layer of attention, and of the network behind it, is called in the models that transformers has."""


class Bottleneck(PeftPart):
    """Train h + U f(D h) behind each attention and MLP, before what passes them by is added."""

    type: Literal["bottleneck"] = "bottleneck"
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """Behind attention and behind the MLP (houlsby), or behind the MLP only (pfeiffer, arXiv:2005.00247)."""
    bottleneck_size: Annotated[int, Field(gt=0)] = 64
    """Inner size of the small networks."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """What bends the inner features."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the small networks."""
    target_modules: list[str] | None = None
    """Layers behind which they stand, as wide as the model; null: found by `placement`."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 5e-3)
    same: ClassVar[tuple[str, ...]] = ("bottleneck_size", "non_linearity", "dropout", "target_modules")

    def peft_settings(self, model: Any, run: Run) -> Any:
        """A BottleneckConfig.

        Raises:
            ModelError: no layer of the model has a name that is known.
        """
        from luthier.models.bottleneck import BottleneckConfig

        return BottleneckConfig(
            target_modules=self.target_modules or self._places(model),
            hidden_size=model.config.get_text_config().hidden_size,
            task_type=peft_task(model),
            **self.model_dump(include={"bottleneck_size", "non_linearity", "dropout"}),
        )

    def _places(self, model: Any) -> list[str]:
        names = [name.removesuffix(".base_layer") for name, _ in model.named_modules()]
        wanted = {"attention": ATTENTION, "mlp": MLP} if self.placement == "houlsby" else {"mlp": MLP}
        places = []
        for where, endings in wanted.items():
            found = [ending for ending in endings if any(name.endswith(f".{ending}") for name in names)]
            if not found:
                raise ModelError(
                    f"adapter (bottleneck): no layer of {type(model).__name__} is known to end its {where}; name the "
                    "layers in adapter.target_modules"
                )
            places += found
        return places
