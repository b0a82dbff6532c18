"""An adapter decides which weights are trained.

What it does: prepares a model for training, acts after a step where its method needs it, saves what was trained in a
folder that plain transformers or peft loads, and loads it back.
What it must not know: data, objectives, the loop, how many devices there are.
How to add one: one file here with one class, one line in `plugins.BUILT_IN["adapter"]` (or an entry point
`luthier.adapter`). Import torch and peft inside the methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@runtime_checkable
class Adapter(Protocol):
    """What every adapter part offers."""

    type: str
    learning_rates: tuple[float, float]
    """The range in which peak learning rates of this method usually lie; outside, the check warns."""

    trains_base: bool
    """Whether the model's own weights are trained, which are then loaded and kept in float32."""

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze and add weights; returns the model to train (in evaluation mode, weights in float32 where trained)."""

    def learning_rate_scale(self, name: str) -> float:
        """What the learning rate of one parameter is multiplied by."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Act after an optimizer step, for methods that change during training."""

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained weights; the folder exists."""

    def load(self, model: PreTrainedModel, folder: Path) -> None:
        """Put saved weights back into an attached model."""


def peft_task(model: nn.Module) -> str:
    """What peft calls the kind of model; it keeps and saves the new head of one that scores."""
    return "SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "CAUSAL_LM"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
