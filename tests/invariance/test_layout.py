"""How a step is cut never changes what is learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.data.conversation import Origin, Text
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.render import Tokens
from luthier.models.load import _use_segment_attention
from luthier.models.output import Forward
from tests.conftest import build_model
from tests.invariance.conftest import farthest, metrics, weights

Train = Callable[..., Path]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_one_row_at_a_time_equals_all_at_once(train: Train, adapter: str) -> None:
    common = {"adapter": adapter, "data__packing": False, "train__learning_rate": 1e-3 if adapter == "lora" else 1e-4}
    ones = train("ones", train__micro_batch_size=1, **common)
    eight = train("eight", train__micro_batch_size=8, **common)
    assert metrics(ones) == pytest.approx(metrics(eight), rel=1e-6)
    assert farthest(weights(ones), weights(eight)) < 2e-5


def test_packed_equals_padded(train: Train) -> None:
    packed = train("packed", data__packing=True, train__micro_batch_tokens=200)
    padded = train("padded", data__packing=False, train__micro_batch_tokens=200)
    assert metrics(packed) == pytest.approx(metrics(padded), rel=1e-6)
    assert farthest(weights(packed), weights(padded)) < 2e-5


def test_the_token_budget_changes_nothing(train: Train) -> None:
    small = train("small", train__micro_batch_tokens=64)
    large = train("large", train__micro_batch_tokens=4096)
    assert metrics(small) == pytest.approx(metrics(large), rel=1e-6)


def test_gradient_checkpointing_changes_nothing(train: Train) -> None:
    plain = train("plain")
    saving = train("saving", train__gradient_checkpointing=True)
    assert metrics(saving) == metrics(plain)
    assert farthest(weights(saving), weights(plain)) == 0


def _example(ids: list[int]) -> Example:
    tokens = Tokens(np.asarray(ids, dtype=np.int32), np.asarray([0] + [1] * (len(ids) - 1), dtype=np.float32))
    return Example(Origin("memory", 1), "", (tokens,), Text(""))


@pytest.mark.parametrize("window", [None, 4])
def test_a_packed_row_never_sees_its_neighbours(window: int | None) -> None:
    """Bit for bit the same beside other neighbours, and the same as alone."""
    from transformers import MistralConfig, MistralForCausalLM

    if window is None:
        model: Any = build_model(100)
    else:
        torch.manual_seed(0)
        shape = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": window}
        model = MistralForCausalLM(MistralConfig(**shape, **heads))
    _use_segment_attention(model)
    model.eval()
    forward = Forward(model)
    generator = np.random.default_rng(0)
    rows = [list(map(int, generator.integers(3, 100, n))) for n in (9, 17, 5)]
    layout = Layout(packing=True, tokens=64)

    def logprobs(chosen: list[list[int]]) -> list[torch.Tensor]:
        batch = lay_out([_example(row) for row in chosen], layout)
        with torch.no_grad():
            return list(forward(model, batch).logprobs(batch.targets).split([len(row) - 1 for row in chosen]))

    together = logprobs(rows)
    changed = logprobs([rows[0], [5] * 17, rows[2]])
    assert torch.equal(together[0], changed[0]) and torch.equal(together[2], changed[2])
    assert not torch.equal(together[1], changed[1])
    for row, found in zip(rows, together, strict=True):
        assert torch.allclose(logprobs([row])[0], found, atol=2e-6)
        with torch.no_grad():
            model.set_attn_implementation("eager")  # transformers' own attention as the witness
            plain = model(torch.tensor([row]), use_cache=False).logits[0, :-1].log_softmax(-1)
            model.set_attn_implementation("luthier")
        assert torch.allclose(plain.gather(-1, torch.tensor(row[1:])[:, None])[:, 0], found, atol=1e-5)
