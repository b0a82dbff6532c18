"""VeRA: scales of random matrices that all layers share (Kopiczko et al. 2023, arXiv:2310.11454), through peft."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.adapters.base import Run, peft_task
from luthier.adapters.peft_part import PeftPart, TargetModules


class Vera(PeftPart):
    """Train two vectors for each linear layer: W x + b * (B (d * (A x))), with A and B random, frozen and shared."""

    type: Literal["vera"] = "vera"
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
        """A VeraConfig; the matrices are saved, so that they never depend on how random numbers are drawn."""
        from peft import VeraConfig

        return VeraConfig(
            r=self.rank,
            vera_dropout=self.dropout,
            d_initial=self.d_initial,
            target_modules=self.target_modules,
            save_projection=True,
            task_type=peft_task(model),
        )
