"""What a step holds is known from sizes alone: against a real model and a real step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.adapters.base import count_parameters
from luthier.adapters.lora import Lora
from luthier.kernels.attention import NAME
from luthier.models.recompute import recompute_layers
from luthier.planner.shape import Alive, Counts, Shape, bytes_of_pass

Make = Callable[..., Shape]


@pytest.mark.parametrize("adapter", ["full", {"type": "lora", "rank": 4}, {"type": "lora", "rank": "auto"}, "ia3"])
def test_weights_are_counted_as_they_are(shape: Make, adapter: Any) -> None:
    found = shape(adapter=adapter)
    model = AutoModelForCausalLM.from_config(found.sizes)
    part: Any = found.config.adapter
    if isinstance(part, Lora) and part.rank == "auto":
        part = part.model_copy(update={"rank": part.rank_budget})
    trained, every = count_parameters(part.attach(model))
    assert found.whole == Counts(every, trained, 4 * every)


def test_a_part_of_a_layer_and_what_is_around_it(shape: Make) -> None:
    found = shape()
    around = 2 * 1000 * 64 + 64  # embedding, head, last norm
    query, key, inner, norms = 64 * 64, 64 * 32, 64 * 192, 2 * 64
    layer = 2 * query + 2 * key + 3 * inner + norms
    assert found.ends == Counts(around, around, 4 * around) and found.layer().numbers == layer
    assert found.layer(4).numbers == (layer - norms) // 4 + norms  # norms are whole everywhere
    assert [found.can_be_cut(parts) for parts in (1, 2, 4, 8)] == [True, True, True, False]  # of 4 key-value heads
    assert not shape(sizes={"model_type": "gpt2"}).can_be_cut(2)  # which says no plan


@pytest.mark.parametrize("recomputed", [False, True])
def test_what_a_layer_keeps(shape: Make, recomputed: bool) -> None:
    """Recomputed, its input; else that and what its operations keep, which is more where more tokens are."""
    found = shape(train={"gradient_checkpointing": recomputed})
    few, more = found.held(2048, 1), found.held(4096, 1)
    if recomputed:
        assert more.layer == 4096 * 64 * 4
    else:
        assert more.layer == pytest.approx(2 * few.layer, rel=0.01) and more.layer > 10 * 4096 * 64 * 4
    assert found.held(2048, 2).layer <= few.layer


def test_half_the_bytes_in_bf16(shape: Make) -> None:
    wide, half = shape(adapter="lora").held(2048, 1), shape("bf16", adapter="lora").held(2048, 1)
    assert wide.layer / 2 < half.layer < wide.layer
    assert shape("bf16", adapter="lora").whole.bytes < 0.6 * shape(adapter="lora").whole.bytes


def test_the_living_are_counted_once_and_until_they_go() -> None:
    with Alive() as alive:
        one = torch.zeros(100)
        two = one[:50]  # a view holds nothing of its own
        three = two + 1
        del one, two
        four = torch.zeros(10)
    assert alive.most == 4 * (100 + 50) and alive.now == 4 * (50 + 10), (three, four)


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_real_step_holds_what_is_said(shape: Make, adapter: Any, recomputed: bool) -> None:
    """The same operations on real tensors, in a model that has all its layers."""
    found = shape(adapter=adapter, train={"gradient_checkpointing": recomputed})
    said, real = found.held(512, 1), AutoModelForCausalLM.from_config(found.sizes, attn_implementation=NAME)
    part: Any = found.config.adapter
    model = part.attach(real)
    if recomputed:
        recompute_layers(model, every=1)
    assert bytes_of_pass(model, 512, "fp32") == pytest.approx(said.once + found.layers * said.layer, rel=0.05)
