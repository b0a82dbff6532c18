"""AdaLoRA: updates as singular values, the least important of which are given up (Zhang et al. 2023, arXiv:2303.10512).

Through peft, whose parts are called one by one: importance is measured before a step, while weights and gradients
belong together (the paper's algorithm 1; peft's `update_and_allocate` pairs new weights with old gradients), and values
are given up after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.adapters.base import Model, Run
from luthier.adapters.peft_part import PeftPart, TargetModules, set_weights
from luthier.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

STATE = "adalora.safetensors"
"""Smoothed importance and masks: what a checkpoint needs besides the adapter."""


class AdaLora(PeftPart):
    """Train B E A for each linear layer, with E diagonal; the rank shrinks where it matters least."""

    type: Literal["adalora"] = "adalora"
    config: ClassVar[str] = "AdaLoraConfig"
    called: ClassVar[Mapping[str, str]] = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
    target_r: Annotated[int, Field(gt=0)] = 8
    """Mean rank of all layers in the end."""
    init_r: Annotated[int, Field(gt=0)] = 12
    """Rank of every layer in the beginning."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the update, divided by `init_r`; null: twice `init_r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of A."""
    target_modules: TargetModules = "all-linear"
    """Layers that get an update: all linear layers but the head, or names such as `[q_proj, v_proj]`."""
    tinit: Annotated[float, Field(ge=0)] = 0.1
    """Steps before anything is given up: a share of all steps when below 1, else a number of steps."""
    tfinal: Annotated[float, Field(ge=0)] = 0.3
    """Steps after the last value was given up: a share of all steps when below 1, else a number of steps."""
    deltaT: Annotated[int, Field(gt=0)] | None = None  # noqa: N815 - peft's name
    """Steps from one choice to the next; null: a hundredth of all steps."""
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Smoothing of the importance of each weight."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Smoothing of how much it varies."""
    orth_reg_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the penalty that keeps the rows of A, and the columns of B, orthogonal."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-6, 1e-2)
    same: ClassVar[tuple[str, ...]] = ("init_r", "lora_alpha", "lora_dropout", "target_modules")

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r ({self.target_r}) must be below init_r ({self.init_r}); for one rank, write lora"
            )
        return self

    # ---- attaching ---------------------------------------------------------------------------------------------

    def schedule(self, total_steps: int) -> tuple[int, int, int]:
        """tinit, tfinal and deltaT in steps.

        Raises:
            ModelError: the run is too short for a choice between them.
        """
        first = max(1, _steps(self.tinit, total_steps))  # in the first step nothing has any importance yet
        last = _steps(self.tfinal, total_steps)
        if first >= total_steps - last:
            raise ModelError(
                f"adapter: adalora with tinit {first} and tfinal {last} leaves no step to choose ranks in a run of "
                f"{total_steps}; lower them, train longer, or write lora"
            )
        return first, last, self.deltaT or max(1, total_steps // 100)

    def peft_settings(self, model: Any, run: Run) -> Any:
        """With its schedule in steps."""
        times = dict(zip(("tinit", "tfinal", "deltaT"), self.schedule(run.total_steps), strict=True))
        alpha = 2.0 * self.init_r if self.alpha is None else self.alpha
        return self.made(model, **times, lora_alpha=alpha, total_step=run.total_steps)

    # ---- training ----------------------------------------------------------------------------------------------

    def penalty(self, model: nn.Module) -> Tensor | None:
        """`orth_reg_weight` x the mean over all A and B of ||A A^T - I|| and ||B^T B - I|| (the paper's equation 5)."""
        import torch

        if not self.orth_reg_weight:
            return None
        grams = [
            p @ p.T if "lora_A" in name else p.T @ p
            for name, p in model.named_parameters()
            if p.requires_grad and ("lora_A" in name or "lora_B" in name)
        ]
        apart = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
        return self.orth_reg_weight * torch.stack(apart).mean()

    def before_step(self, model: nn.Module, step: int) -> None:
        """Measure how important each weight is, while values are still given up."""
        if step <= _last_choice(model):
            _allocator(model).update_ipt(_tuner(model).model)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Give up the least important values; those given up by the last choice stay so."""
        found, inner = _allocator(model), _tuner(model).model
        settings = found.peft_config
        if step > _last_choice(model):
            found.mask_using_rank_pattern(inner, settings.rank_pattern)
            return
        budget, chosen = found.budget_schedule(step)
        if chosen or step == _last_choice(model):
            settings.rank_pattern = found.mask_to_budget(inner, budget)

    # ---- saving ------------------------------------------------------------------------------------------------

    def go_on(self, model: Any, run: Run) -> Any:
        """A new schedule that begins with the weights of the last one."""
        from peft import get_peft_model_state_dict

        wanted = self.peft_settings(model.get_base_model(), run)
        self.require_same(model.peft_config[model.active_adapter], wanted)
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        tuned = self.add(model.unload(), wanted)
        set_weights(tuned, weights, run.start or Path("the model"))
        return tuned

    def save(self, model: Model, folder: Path) -> None:
        """Whole, what was given up as zeros: peft would leave it out, and be off by a rounding when it loads."""
        settings = _allocator(model).peft_config
        chosen, settings.rank_pattern = settings.rank_pattern, None
        try:
            super().save(model, folder)
        finally:
            settings.rank_pattern = chosen

    def checkpoint(self, model: Model, folder: Path) -> None:
        """With the smoothed importance of all weights, and the masks."""
        import torch
        from safetensors.torch import save_file

        self.save(model, folder)
        found = _allocator(model)
        state = {f"ipt|{name}": tensor for name, tensor in found.exp_avg_ipt.items()}
        state |= {f"unc|{name}": tensor for name, tensor in found.exp_avg_unc.items()}
        state |= {f"mask|{name}": torch.tensor(mask) for name, mask in (found.peft_config.rank_pattern or {}).items()}
        save_file(state, folder / STATE)

    def load(self, model: Model, folder: Path) -> None:
        """All of it, from a checkpoint."""
        from safetensors.torch import load_file

        found = _allocator(model)
        found.peft_config.rank_pattern = None  # peft would cut the layers
        super().load(model, folder)
        parts: dict[str, dict[str, Any]] = {"ipt": {}, "unc": {}, "mask": {}}
        for key, tensor in load_file(folder / STATE, device=str(model.device)).items():
            part, _, name = key.partition("|")
            parts[part][name] = tensor
        found.ipt = dict.fromkeys(parts["ipt"])
        found.exp_avg_ipt, found.exp_avg_unc = parts["ipt"], parts["unc"]
        found.peft_config.rank_pattern = {name: mask.tolist() for name, mask in parts["mask"].items()} or None


def _steps(amount: float, total: int) -> int:
    return int(amount * total) if amount < 1 else int(amount)


def _tuner(model: Any) -> Any:
    """peft's AdaLoraModel."""
    return model.base_model


def _allocator(model: Any) -> Any:
    """What chooses ranks."""
    return _tuner(model).rankallocator


def _last_choice(model: Any) -> int:
    """The step after which ranks stay."""
    settings = _allocator(model).peft_config
    return int(settings.total_step - settings.tfinal)
