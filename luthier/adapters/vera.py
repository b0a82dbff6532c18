"""VeRA: scales of random matrices that all layers share (Kopiczko et al. 2023, arXiv:2310.11454), through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.adapters.base import Run
from luthier.adapters.peft_part import PeftPart, TargetModules


class Vera(PeftPart):
    """Train two vectors for each linear layer: W x + b * (B (d * (A x))), with A and B random, frozen and shared."""

    type: Literal["vera"] = "vera"
    config: ClassVar[str] = "VeraConfig"
    called: ClassVar[Mapping[str, str]] = {"rank": "r", "dropout": "vera_dropout"}
    rank: Annotated[int, Field(gt=0)] = 256
    """Inner size of the shared matrices."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the matrices."""
    d_initial: float = 0.1
    """First value of d."""
    target_modules: TargetModules = "all-linear"
    """Layers that get an update: all linear layers but the head, or names such as `[q_proj, v_proj]`."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-1)
    same: ClassVar[tuple[str, ...]] = ("r", "vera_dropout", "target_modules")

    def peft_settings(self, model: Any, run: Run) -> Any:
        """The matrices are saved, so that they never depend on how random numbers are drawn."""
        return self.made(model, save_projection=True)
