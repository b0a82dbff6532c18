"""Who is decayed, and how fast each layer learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from luthier.adapters.base import trainable
from luthier.adapters.full import Full
from luthier.adapters.lora import Lora
from luthier.errors import UserError
from luthier.train.optim.base import Group, set_learning_rate
from luthier.train.optim.groups import parameter_groups
from tests.conftest import build_model


def scales(groups: Iterable[Group]) -> dict[str, float]:
    return {name: group.lr_scale for group in groups for name in group.parameters}


def full(**changes: Any) -> nn.Module:
    return Full().attach(build_model(50, **changes))


def test_norms_and_biases_are_never_decayed() -> None:
    model = full(attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    groups = parameter_groups(model, Full(), weight_decay=0.1)
    decayed = {name for group in groups if group.weight_decay == 0.1 for name in group.parameters}
    plain = {name for group in groups if group.weight_decay == 0.0 for name in group.parameters}
    assert all("norm" in name or name.endswith("bias") for name in plain)
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert decayed | plain == set(trainable(model)) and not decayed & plain
    assert any(name.endswith("bias") for name in plain) and any("norm" in name for name in plain)


def test_biases_of_experts_are_biases() -> None:
    """gpt-oss keeps one row of biases for each expert: a matrix that must not be decayed."""
    model: Any = full()
    model.model.layers[0].mlp.down_proj.register_parameter("gate_up_proj_bias", nn.Parameter(torch.zeros(4, 8)))
    groups = parameter_groups(model, Full(), weight_decay=0.1)
    (home,) = [g for g in groups if "model.layers.0.mlp.down_proj.gate_up_proj_bias" in g.parameters]
    assert home.weight_decay == 0.0 and not home.hidden


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_matrices_are_those_between_embedding_and_head(tied: bool) -> None:
    groups = parameter_groups(full(tie_word_embeddings=tied), Full())
    hidden = {name for group in groups if group.hidden for name in group.parameters}
    assert hidden == {
        f"model.layers.{layer}.{module}.weight"
        for layer in (0, 1)
        for module in (
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        )
    }


def test_a_vector_of_a_method_is_no_matrix() -> None:
    """IA3 scales each channel, with a matrix of one row or column."""
    model: Any = full()
    model.model.layers[0].mlp.register_parameter("ia3_l", nn.Parameter(torch.ones(64, 1)))
    hidden = [g for g in parameter_groups(model, Full()) if g.hidden]
    assert all("ia3_l" not in name for group in hidden for name in group.parameters)


@pytest.mark.parametrize("adapter", [Full(), Lora()], ids=["full", "lora"])
def test_each_layer_learns_slower_than_the_one_above(adapter: Any) -> None:
    model = adapter.attach(build_model(50, num_hidden_layers=3, tie_word_embeddings=False))
    found = scales(parameter_groups(model, adapter, layer_decay=0.5))
    expected = {"layers.2.": 0.5, "layers.1.": 0.25, "layers.0.": 0.125, "embed_tokens": 0.0625}
    assert found.keys() == trainable(model).keys()
    for name, scale in found.items():
        place = next((part for part in expected if part in name), None)
        assert scale == (expected[place] if place else 1.0), name
    if adapter.type == "full":
        assert found["lm_head.weight"] == found["model.norm.weight"] == 1.0
        assert found["model.embed_tokens.weight"] == 0.0625


def test_a_tied_head_is_the_embedding() -> None:
    found = scales(parameter_groups(full(), Full(), layer_decay=0.5))
    assert found["model.embed_tokens.weight"] == 0.125 and "lm_head.weight" not in found


def test_what_looks_like_a_layer_outside_of_the_layers_is_none() -> None:
    """A prompt encoder has numbered layers of its own."""
    model: Any = full(num_hidden_layers=3)
    model.prompt = nn.ModuleDict({"mlp_head": nn.Sequential(nn.Linear(4, 4))})
    assert scales(parameter_groups(model, Full(), layer_decay=0.5))["prompt.mlp_head.0.weight"] == 1.0


def test_a_model_without_a_list_of_layers() -> None:
    model: Any = full()
    model.config.num_hidden_layers = 7
    assert set(scales(parameter_groups(model, Full())).values()) == {1.0}
    with pytest.raises(UserError, match=r"train\.layer_decay: the layers of LlamaForCausalLM .* layer_decay: 1"):
        parameter_groups(model, Full(), layer_decay=0.9)


class Plus(Lora):
    """As LoRA+ does."""

    def learning_rate_scale(self, name: str) -> float:
        return 16.0 if "lora_B" in name else 1.0


def test_the_scales_of_the_adapter_multiply() -> None:
    model = Plus().attach(build_model(50))
    found = scales(parameter_groups(model, Plus(), layer_decay=0.5))
    assert {(".1." in name, "lora_B" in name): scale for name, scale in found.items()} == {
        (True, True): 8.0,
        (True, False): 0.5,
        (False, True): 4.0,
        (False, False): 0.25,
    }


def test_the_rate_of_a_group_is_that_of_the_schedule_times_its_scale() -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    groups: list[dict[str, Any]] = [{"params": [weight]} for weight in weights]
    groups[0]["lr_scale"], groups[1]["lr_scale"] = 0.5, 16.0
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for _ in range(2):  # not once more each time
        set_learning_rate(optimizer, 0.01)
        assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.16, 0.01]
