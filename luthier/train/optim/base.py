"""An optimizer turns gradients into new weights.

What it does: refuses before the model is loaded what could not work, and makes a torch optimizer from groups of
parameters. All that it remembers is saved and put back by `saved.py`: tensors and numbers in torch's `state`, or in an
object kept there, need no code; anything else is told by a `Wrapped` (`wrapped.py`).
What it must not know: data, objectives, the schedule. The loop sets the rate of each group before each step.
How to add one: one file here with a subclass of `OptimizerSettings`, one line under `optimizer` in `plugins.yaml` (or
an entry point `luthier.optimizer`). Import torch and the library inside the methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, cast

from pydantic import Field

from luthier.adapters.base import Adapter
from luthier.config import RunConfig
from luthier.errors import UserError
from luthier.plugins import Part
from luthier.supplies import library

if TYPE_CHECKING:
    import torch
    from torch import nn

Optimizer: TypeAlias = "torch.optim.Optimizer"
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


class OptimizerSettings(Part):
    """Base of every optimizer: what suits most kinds; each writes what differs."""

    module: ClassVar[str] = ""
    """The module of the library that it comes from, where that is optional."""
    extra: ClassVar[str] = "optimizers"
    """The extra of Luthier that installs it."""

    def require(self, config: RunConfig) -> None:
        """Raise MissingExtra or UserError for a run that this optimizer cannot do; nothing was loaded yet."""
        if self.module:
            library(self.module, f"train.optimizer: {self.type}", self.extra, called=f"the library {self.module}")

    @abstractmethod
    def build(self, groups: Sequence[Group]) -> Optimizer:
        """The optimizer of these groups, which it keeps with their `lr_scale`; the loop sets `lr` before each step."""

    def made(self, kind: Any, groups: Sequence[Group], **more: Any) -> Optimizer:
        """An optimizer of torch or of a library, which takes the settings by the names they have here."""
        settings = self.model_dump(exclude={"type"}) | more
        made: Optimizer = kind([group.options() for group in groups], **{"lr": 0.0} | settings)
        return made


def require_base(kind: str, config: RunConfig, why: str) -> None:
    """Refuse adapters that leave the model's own weights as they are."""
    if not cast(Adapter, config.adapter).trains_base:
        raise UserError(
            f"train.optimizer: {kind} {why}, and adapter: {config.adapter.type} leaves those as they are; "
            "write adapter: full, or optimizer: adamw"
        )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give each group the rate of the schedule times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # optimizers of plug-ins may drop keys that are not theirs
