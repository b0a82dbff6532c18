"""An optimizer turns gradients into new weights.

What it does: refuses before the model is loaded what could not work, and makes a torch optimizer from groups of
parameters. All that it remembers is saved and put back by `saved.py`: tensors and numbers in torch's `state`, or in an
object kept there, need no code; anything else is told by a `Wrapped` (`wrapped.py`).
What it must not know: data, objectives, the schedule. The loop sets the rate of each group before each step.
How to add one: one file here with a settings class, one line in `plugins.BUILT_IN["optimizer"]` (or an entry point
`luthier.optimizer`). Import torch and the library inside the methods.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast, runtime_checkable

from pydantic import Field

from luthier.adapters.base import Adapter
from luthier.errors import MissingExtra, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from luthier.config import RunConfig

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters by name that share everything. `lr_scale` multiplies the learning rate of the schedule.

    `hidden` says that these are the matrices between embedding and head, which some optimizers treat in their own way.
    """

    parameters: dict[str, nn.Parameter]
    weight_decay: float
    lr_scale: float = 1.0
    hidden: bool = False

    def options(self, **more: Any) -> dict[str, Any]:
        """The group as torch's optimizers take it, with further keys."""
        params = list(self.parameters.values())
        return {"params": params, "weight_decay": self.weight_decay, "lr_scale": self.lr_scale, **more}


@runtime_checkable
class OptimizerSettings(Protocol):
    """The config part of an optimizer."""

    type: str

    def require(self, config: RunConfig) -> None:
        """Raise MissingExtra or UserError for a run that this optimizer cannot do; nothing was loaded yet."""

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """The optimizer of these groups, which it keeps with their `lr_scale`; the loop sets `lr` before each step."""


def require_library(kind: str, module: str, extra: str) -> Any:
    """Import the library of an optimizer.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(f"train.optimizer: {kind}", f"the library {module}", extra) from None


def require_base(kind: str, config: RunConfig, why: str) -> None:
    """Refuse adapters that leave the model's own weights as they are."""
    if not cast(Adapter, config.adapter).trains_base:
        raise UserError(
            f"train.optimizer: {kind} {why}, and adapter: {config.adapter.type} leaves those as they are; "
            "write adapter: full, or optimizer: adamw"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group the rate of the schedule times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # optimizers of plug-ins may drop keys that are not theirs
