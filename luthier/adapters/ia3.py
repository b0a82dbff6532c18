"""(IA)^3: a learnt factor for each key, value and inner feature (Liu et al. 2022, arXiv:2205.05638), through peft."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from luthier.adapters.peft_part import PeftPart


class Ia3(PeftPart):
    """Train one factor for each output of some layers, and for each input of others."""

    type: Literal["ia3"] = "ia3"
    config: ClassVar[str] = "IA3Config"
    target_modules: list[str] | None = None
    """Layers that get factors, for example `[k_proj, v_proj, down_proj]`; null: those that peft knows for the model."""
    feedforward_modules: list[str] | None = None
    """Those of them whose inputs get the factors, for example `[down_proj]`; null: those that peft knows."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-4, 1e-1)
    same: ClassVar[tuple[str, ...]] = ("target_modules", "feedforward_modules")

    @model_validator(mode="after")
    def _both(self) -> Self:
        strange = set(self.feedforward_modules or ()) - set(self.target_modules or ())
        if (self.target_modules is None) != (self.feedforward_modules is None) or strange:
            raise ValueError(
                "write target_modules and feedforward_modules together, and every one of the latter among the former; "
                "feedforward_modules may be []"
            )
        return self
