"""OFT: each layer's input turned by a learnt rotation in blocks (Qiu et al. 2023, arXiv:2306.07280), through peft."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.adapters.base import Run
from luthier.adapters.peft_part import PeftPart, TargetModules
from luthier.errors import ModelError


class Oft(PeftPart):
    """Train rotations of blocks of each linear layer's inputs; angles between them are kept."""

    type: Literal["oft"] = "oft"
    config: ClassVar[str] = "OFTConfig"
    oft_block_size: Annotated[int, Field(gt=1)] = 32
    """Inputs that are turned together; must divide the inputs of every layer."""
    target_modules: TargetModules = "all-linear"
    """Layers that get rotations: all linear layers but the head, or names such as `[q_proj, v_proj]`."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-2)
    same: ClassVar[tuple[str, ...]] = ("oft_block_size", "target_modules")

    def add(self, model: Any, settings: Any) -> Any:
        """The rotations; peft would take another size of block where this one does not divide."""
        from peft.tuners.oft.layer import OFTLayer

        tuned = super().add(model, settings)
        for name, module in tuned.named_modules():
            if isinstance(module, OFTLayer) and module.in_features % self.oft_block_size:
                raise ModelError(
                    f"adapter.oft_block_size: {self.oft_block_size} does not divide the {module.in_features} inputs of "
                    f"{name.removeprefix('base_model.model.')}; write a number that divides those of every layer"
                )
        return tuned

    def peft_settings(self, model: Any, run: Run) -> Any:
        """By the size of blocks, not by their number."""
        return self.made(model, r=0)
