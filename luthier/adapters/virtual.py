"""Virtual tokens in front of every row of a frozen model: prompt tuning, prefix tuning and p-tuning, through peft.

Rows with virtual tokens cannot share a row of a micro-batch, so they are padded; that changes nothing but the speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from luthier.adapters.base import Learnt, Model, Run
from luthier.adapters.peft_part import WEIGHTS, PeftPart
from luthier.config import RunConfig
from luthier.errors import ModelError

ENCODER = "prompt_encoder.safetensors"
"""The weights behind a prompt that is computed, which peft does not save: only with them can training go on."""


class Virtual(PeftPart):
    """What the three kinds share."""

    num_virtual_tokens: Annotated[int, Field(gt=0)] = 20
    """Virtual tokens in front of every row."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-4, 1.0)
    same: ClassVar[tuple[str, ...]] = ("num_virtual_tokens",)

    @property
    def virtual_tokens(self) -> int:
        """As many as are trained."""
        return self.num_virtual_tokens

    def go_on(self, model: Any, run: Run) -> Any:
        """Train the prompt of a tuned folder, and whatever computes it."""
        given, base = model.prompt_encoder[model.active_adapter], model.get_base_model()
        settings = self.peft_settings(base, run)
        self.require_same(model.peft_config[model.active_adapter], settings)
        tuned = self.add(base, settings)
        if run.start is not None and (run.start / ENCODER).is_file():
            self.load(tuned, run.start)
        elif _computed(tuned):
            raise ModelError(
                f"adapter ({self.type}): {run.start or 'the model'} has no {ENCODER}, without which its prompt can be "
                "used but not trained on; start from the base model"
            )
        else:
            _encoder(tuned).load_state_dict(given.state_dict())
        return tuned

    def save(self, model: Model, folder: Path) -> None:
        """The prompt as peft writes it, and what it is computed from."""
        from safetensors.torch import save_file

        super().save(model, folder)
        if _computed(model):
            save_file(_encoder(model).state_dict(), folder / ENCODER)

    def load(self, model: Model, folder: Path) -> None:
        """The prompt, or what it is computed from."""
        from safetensors.torch import load_file

        if _computed(model):
            _encoder(model).load_state_dict(load_file(folder / ENCODER))
        else:
            _encoder(model).load_state_dict({"embedding.weight": load_file(folder / WEIGHTS)["prompt_embeddings"]})


def _encoder(model: Any) -> Any:
    return model.prompt_encoder[model.active_adapter]


def _computed(model: Any) -> bool:
    """Whether the prompt comes out of a network, and is not trained itself."""
    return len(list(_encoder(model).parameters())) > 1


class Embedded(Virtual):
    """Virtual tokens that are embeddings, which a model that scores would count as tokens of the row."""

    def refusal(self, config: RunConfig) -> str | None:
        """Models that score would take the wrong token for the last of a row."""
        objective = cast(Learnt, config.objective)
        if objective.needs.scores:
            return f"it cannot stand before rows that are scored (objective: {objective.type}); write prefix or lora"
        return None


class Prompt(Embedded):
    """Train the embeddings of virtual tokens (prompt tuning, Lester et al. 2021, arXiv:2104.08691)."""

    type: Literal["prompt"] = "prompt"
    config: ClassVar[str] = "PromptTuningConfig"
    prompt_tuning_init: Literal["sample_vocab", "text", "random"] = "sample_vocab"
    """First values: embeddings of tokens drawn at random, those of a text, or random numbers."""
    prompt_tuning_init_text: str | None = None
    """The text, cut or repeated until it has as many tokens."""

    @model_validator(mode="after")
    def _text(self) -> Self:
        if (self.prompt_tuning_init == "text") != (self.prompt_tuning_init_text is not None):
            raise ValueError(
                "prompt_tuning_init: text and prompt_tuning_init_text belong together: write both or neither"
            )
        return self

    def peft_settings(self, model: Any, run: Run) -> Any:
        """With the tokenizer that cuts the text."""
        tokenizer = model.name_or_path if self.prompt_tuning_init == "text" else None
        start = self.prompt_tuning_init.upper()
        return self.made(model, prompt_tuning_init=start, tokenizer_name_or_path=tokenizer)


class PTuning(Embedded):
    """Train a network that makes the embeddings of virtual tokens (p-tuning, Liu et al. 2021, arXiv:2103.10385)."""

    type: Literal["p-tuning"] = "p-tuning"
    config: ClassVar[str] = "PromptEncoderConfig"
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The kind of network."""
    encoder_hidden_size: Annotated[int, Field(gt=0)] | None = None
    """Its width; null: the model's."""

    same: ClassVar[tuple[str, ...]] = ("num_virtual_tokens", "encoder_reparameterization_type", "encoder_hidden_size")


class Prefix(Virtual):
    """Train keys and values in front of every layer's own (prefix tuning, Li & Liang 2021, arXiv:2101.00190)."""

    type: Literal["prefix"] = "prefix"
    config: ClassVar[str] = "PrefixTuningConfig"
    prefix_projection: bool = False
    """Compute them by a network of two layers, which is trained instead."""
    encoder_hidden_size: Annotated[int, Field(gt=0)] | None = None
    """Its width; null: the model's."""

    same: ClassVar[tuple[str, ...]] = ("num_virtual_tokens", "prefix_projection", "encoder_hidden_size")

    def refusal(self, config: RunConfig) -> str | None:
        """Recomputed layers would lose the prefix."""
        if config.train.gradient_checkpointing:
            return "layers that are computed again do not see the prefix; set train.gradient_checkpointing=false"
        return None
