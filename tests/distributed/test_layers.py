"""Layers a few at a time, and where to cut them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.distributed.layers import Layers, cut
from luthier.errors import UserError

COSTS = st.lists(st.integers(1, 20), min_size=1, max_size=9)


@given(COSTS, st.integers(1, 5))
def test_the_dearest_part_is_as_cheap_as_can_be(costs: list[int], parts: int) -> None:
    if len(costs) < parts:
        with pytest.raises(UserError, match=f"{len(costs)} layers make no {parts} stages"):
            cut(costs, parts)
        return
    found = cut(costs, parts)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == len(costs)
    ways = (zip((0, *at), (*at, len(costs)), strict=True) for at in combinations(range(1, len(costs)), parts - 1))
    best = min(max(sum(costs[a:b]) for a, b in way) for way in ways)
    assert max(sum(costs[a:b]) for a, b in found) == best


def models() -> dict[str, Any]:
    """One of each family, with layers of both kinds where it has two."""
    import transformers as t

    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    more = {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}
    kinds = ["sliding_attention", "full_attention"] * 2
    gemma = {**shape, **more, "layer_types": kinds, "sliding_window": 3}
    return {
        "llama": t.LlamaForCausalLM(t.LlamaConfig(**shape, **more, tie_word_embeddings=True)),
        "qwen2": t.Qwen2ForCausalLM(t.Qwen2Config(**shape, intermediate_size=24, num_key_value_heads=1)),
        "qwen3": t.Qwen3ForCausalLM(t.Qwen3Config(**shape, **more)),
        "mistral": t.MistralForCausalLM(t.MistralConfig(**shape, **more, sliding_window=3)),
        "gemma": t.GemmaForCausalLM(t.GemmaConfig(**shape, **more)),
        "gemma3": t.Gemma3ForCausalLM(t.Gemma3TextConfig(**gemma)),
        "gpt2": t.GPT2LMHeadModel(t.GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=2)),
    }


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "gpt2"])
def test_parts_one_behind_the_other_are_the_model(name: str) -> None:
    """Positions, the scale of embeddings, the last norm and the kinds of layers are each where they belong."""
    torch.manual_seed(0)
    model = models()[name].eval()
    layers, ids = Layers(model), torch.arange(12)[None]
    with torch.no_grad():
        whole = layers.holder(input_ids=ids, use_cache=False).last_hidden_state
        hidden: Any = {"input_ids": ids}
        for start, end in [(0, 1), (1, 3), (3, 4)]:
            with layers.only(start, end):
                made = layers.holder(use_cache=False, **hidden).last_hidden_state
            hidden = {"inputs_embeds": made}
        again = layers.holder(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(made, whole) and torch.equal(again, whole)


def test_all_parameters_have_a_home() -> None:
    for model in models().values():
        layers = Layers(model)
        held = {id(p) for module in layers.modules(0, layers.last) for p in module.parameters()}
        assert held == {id(p) for p in model.parameters()}


def test_the_head_is_a_cost_of_the_last_layer() -> None:
    layers = Layers(models()["llama"])
    costs = layers.costs(tokens=8)
    assert len(costs) == 4 and all(0 < cost < 10 for cost in costs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layers.every)


def test_an_unknown_family_is_refused() -> None:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(UserError, match=r"the layers of OPTForCausalLM are not known .* Write parallel: fsdp"):
        Layers(OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16)))
