"""What all kinds share that peft implements."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.adapters.base import UNKNOWN_RUN, Adapter, Model, Run, peft_task
from luthier.errors import ModelError

WEIGHTS = "adapter_model.safetensors"
TargetModules = Literal["all-linear"] | list[str]


class PeftPart(Adapter):
    """A kind that peft attaches, saves and loads; the kinds say which settings peft needs."""

    config: ClassVar[str]
    """The class of peft that holds its settings."""
    called: ClassVar[Mapping[str, str]] = {}
    """What peft calls settings that have another name here."""
    same: ClassVar[tuple[str, ...]]
    """The settings of peft that a model which already carries an adapter must share with the config."""

    def peft_settings(self, model: Any, run: Run) -> Any:
        """The `PeftConfig` of a new adapter on a plain model."""
        return self.made(model)

    def made(self, model: Any, **more: Any) -> Any:
        """The settings of the config, and more or others by the names that peft has, as peft holds them."""
        own = {self.called.get(name, name): value for name, value in self.model_dump(exclude={"type"}).items()}
        return getattr(import_module("peft"), self.config)(**own | more, task_type=peft_task(model))

    def attach(self, model: Model, run: Run = UNKNOWN_RUN) -> Model:
        """Add the adapter; a model that already carries one of the same settings goes on with it.

        Raises:
            ModelError: the model carries another adapter, or has no layer of the names asked for.
        """
        from peft import PeftModel

        if isinstance(model, PeftModel):
            return self.go_on(model, run)
        return self.add(model, self.peft_settings(model, run))

    def add(self, model: Any, settings: Any) -> Any:
        """The model with a new adapter; raises ModelError where peft finds no place for it."""
        from peft import get_peft_model

        settings.revision = getattr(
            model.config, "_commit_hash", None
        )  # of a hub model: the adapter finds this very base
        try:
            tuned = get_peft_model(model, settings)
        except (ValueError, OSError) as error:  # a tokenizer that is not there, for a prompt that begins as a text
            raise ModelError(f"adapter ({self.type}): {str(error).splitlines()[0]}") from None
        return in_float32(tuned)

    def go_on(self, model: Any, run: Run) -> Any:
        """Train the adapter that the model carries."""
        given = model.peft_config[model.active_adapter]
        self.require_same(given, self.peft_settings(model.get_base_model(), run))
        given.inference_mode = False
        model.set_requires_grad(model.active_adapter)
        return in_float32(model)

    def require_same(self, given: Any, wanted: Any) -> None:
        """Refuse to go on with an adapter of other settings.

        Raises:
            ModelError: names what differs.
        """
        kinds = [str(settings.peft_type.value).lower() for settings in (given, wanted)]
        if kinds[0] != kinds[1]:
            raise ModelError(f"the model carries a {kinds[0]} adapter, the config asks for {self.type}: {_WHAT_TO_DO}")
        here, there = (_comparable(settings, self.same) for settings in (given, wanted))
        different = [n for n in self.same if here[n] != there[n] and there[n] not in _AS_IT_COMES]
        if different:
            carried, asked = (", ".join(f"{n} {side[n]}" for n in different) for side in (here, there))
            raise ModelError(
                f"the model carries a {kinds[0]} adapter with {carried}; the config asks for {asked}: {_WHAT_TO_DO}"
            )

    def save(self, model: Model, folder: Path) -> None:
        """adapter_model.safetensors and adapter_config.json, as peft writes them."""
        save_adapter(model, folder)

    def load(self, model: Model, folder: Path) -> None:
        """Read adapter_model.safetensors back into the attached weights."""
        from safetensors.torch import load_file

        set_weights(model, load_file(folder / WEIGHTS), folder)


_AS_IT_COMES = (None, "all-linear")
"""Settings that peft makes out of the model."""
_WHAT_TO_DO = "write the same, or start from the base model"


def _comparable(settings: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Settings by name; what has no order is sorted."""
    values = settings.to_dict()
    return {n: sorted(values[n]) if isinstance(values[n], list | set) else values[n] for n in names}


def in_float32(model: Any) -> Any:
    """Trained weights in float32: peft leaves whole modules (`modules_to_save`) in the type of the base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.eval()


def save_adapter(model: Any, folder: Path, **extra: Any) -> None:
    """Write an adapter as peft does, without its empty model card."""
    model.save_pretrained(str(folder), save_embedding_layers=False, **extra)  # "auto" would ask the hub about the base
    (folder / "README.md").unlink(missing_ok=True)


def set_weights(model: Any, weights: dict[str, Any], source: Path) -> None:
    """Put saved weights into the attached ones.

    Raises:
        ModelError: some of them have no place, are missing, or have another shape.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    lacking = sorted(set(get_peft_model_state_dict(model, save_embedding_layers=False)) - set(weights))
    if lacking:
        raise ModelError(f"{source}: lacks weights that this adapter has: {lacking[:3]}")
    try:
        outcome = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise ModelError(
            f"{source}: the weights do not fit this adapter: {str(error).splitlines()[-1].strip()}"
        ) from None
    if outcome.unexpected_keys:
        raise ModelError(f"{source}: holds weights that this adapter does not have: {outcome.unexpected_keys[:3]}")
