"""LoRA: low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685), through peft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.adapters.base import peft_task
from luthier.errors import ModelError
from luthier.plugins import Part

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Lora(Part):
    """Train two thin matrices beside each linear layer: W x + (alpha / rank) B A x."""

    type: Literal["lora"] = "lora"
    rank: Annotated[int, Field(gt=0)] = 8
    """Inner size of the two matrices."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the update, divided by the rank; null: twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the thin matrices."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Layers that get an update: all linear layers but the head, or names such as `[q_proj, v_proj]`."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 3e-3)
    trains_base: ClassVar[bool] = False

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Add the matrices; a model that already carries a LoRA adapter goes on with it.

        Raises:
            ModelError: the model carries another adapter, or no layer has a name of `target_modules`.
        """
        from peft import LoraConfig, PeftModel, get_peft_model

        if isinstance(model, PeftModel):
            return self._resume(model)
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.scale,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            task_type=peft_task(model),
            revision=getattr(model.config, "_commit_hash", None),  # of a hub model: the adapter finds this very base
        )
        try:
            tuned: Any = get_peft_model(model, settings)
        except ValueError as error:
            raise ModelError(f"adapter.target_modules: {str(error).splitlines()[0]}") from None
        return tuned

    @property
    def scale(self) -> float:
        """lora_alpha as peft counts it."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    def _resume(self, model: Any) -> PreTrainedModel:
        given = model.peft_config[model.active_adapter]
        if given.peft_type != "LORA" or given.r != self.rank or given.lora_alpha != self.scale:
            raise ModelError(
                f"the model carries a {given.peft_type} adapter of rank {getattr(given, 'r', '-')}, alpha "
                f"{getattr(given, 'lora_alpha', '-')}; the config asks for lora, rank {self.rank}, alpha {self.scale:g}"
                ": write the same, or start from the base model"
            )
        modules = None if self.target_modules == "all-linear" else set(self.target_modules)
        if given.lora_dropout != self.dropout or (modules and set(given.target_modules) != modules):
            raise ModelError(
                f"the model carries a lora adapter with dropout {given.lora_dropout:g} on "
                f"{', '.join(sorted(given.target_modules))}; write the same, or start from the base model"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad = f".{model.active_adapter}." in name and "lora_" in name
        return model

    def learning_rate_scale(self, name: str) -> float:
        """All parameters learn at one rate."""
        return 1.0

    def after_step(self, model: nn.Module, step: int) -> None:
        """LoRA does nothing between steps."""

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """adapter_model.safetensors and adapter_config.json, as peft writes them."""
        model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub about the base
        (folder / "README.md").unlink(missing_ok=True)  # an empty form; the run has its report

    def load(self, model: PreTrainedModel, folder: Path) -> None:
        """Read adapter_model.safetensors back into the attached matrices."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        outcome = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        if outcome.unexpected_keys:
            raise ModelError(f"{folder}: holds weights that this adapter does not have: {outcome.unexpected_keys[:3]}")
