"""Training a part of the weights: exactly those that were named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from luthier.adapters.base import trainable
from luthier.adapters.freeze import Freeze
from luthier.adapters.lora import Lora
from luthier.adapters.virtual import Prompt
from luthier.errors import ConfigError, ModelError
from tests.conftest import build_model


def names(part: Freeze, model: Any) -> set[str]:
    return set(trainable(part.attach(model)))


def test_layers(model: Any) -> None:
    of_layer = [{n for n, _ in model.named_parameters() if f".layers.{i}." in n} for i in range(2)]
    assert names(Freeze(last_layers=1), model) == of_layer[1]
    assert names(Freeze(first_layers=1), model) == of_layer[0]
    assert names(Freeze(first_layers=1, last_layers=1), model) == of_layer[0] | of_layer[1]
    with pytest.raises(ModelError, match="the model has 2 layers; lower first_layers or last_layers"):
        Freeze(last_layers=3).attach(model)


def test_modules(model: Any) -> None:
    every = {n for n, _ in model.named_parameters()}
    assert names(Freeze(modules=["*norm*"]), model) == {n for n in every if "norm" in n}
    assert names(Freeze(modules=["model.layers.0.mlp"]), model) == {n for n in every if "layers.0.mlp" in n}
    assert names(Freeze(modules=["model.norm.weight"], last_layers=1), model) == {
        n for n in every if "layers.1." in n or n == "model.norm.weight"
    }
    with pytest.raises(
        ModelError, match=r"adapter\.modules: no weight fits 'score'; the model has, for example, model"
    ):
        Freeze(modules=["score"]).attach(model)


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens", "lm_head.weight", "*embed*"])
def test_tied_weights_have_both_names(name: str) -> None:
    assert names(Freeze(modules=[name]), build_model(50)) == {"model.embed_tokens.weight"}


def test_an_adapter_becomes_part_of_the_weights_first(model: Any) -> None:
    tuned = Freeze(last_layers=1).attach(Lora(rank=2).attach(model))
    assert not [n for n, _ in tuned.named_parameters() if "lora" in n] and len(trainable(tuned)) >= 9
    with pytest.raises(ModelError, match="a prompt tuning adapter cannot be merged: its virtual tokens stand in front"):
        Freeze(last_layers=1).attach(Prompt().attach(tuned))


def test_nothing_to_train_is_refused(run_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained: write last_layers, first_layers or modules"):
        run_config(adapter="freeze")
