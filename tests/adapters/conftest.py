"""Tiny models of two families, and rows as batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from luthier.data.conversation import Origin, Text
from luthier.data.pack import Batch, Example, Layout, lay_out
from luthier.data.render import Tokens
from luthier.models.load import _use_segment_attention
from tests.conftest import build_model

VOCABULARY = 100


def build_qwen3(vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """A random two-layer Qwen3 whose heads are not width / heads wide."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape = {"vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512}
    return Qwen3ForCausalLM(Qwen3Config(**shape, **heads, tie_word_embeddings=False, pad_token_id=0))


@pytest.fixture(params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    """A random model, loaded as Luthier loads one."""
    made = build_qwen3() if request.param == "qwen3" else build_model(VOCABULARY)
    _use_segment_attention(made)
    return made.eval()


def example(ids: list[int]) -> Example:
    """A row of which everything but the first token is trained."""
    weights = np.asarray([0] + [1] * (len(ids) - 1), dtype=np.float32)
    return Example(Origin("memory", 1), "", (Tokens(np.asarray(ids, dtype=np.int32), weights),), Text(""))


def rows(*lengths: int) -> list[list[int]]:
    """Rows of random ids."""
    generator = np.random.default_rng(0)
    return [list(map(int, generator.integers(3, VOCABULARY, n))) for n in lengths]


@pytest.fixture
def padded() -> Callable[..., Batch]:
    """Lays rows out beside each other."""

    def make(*given: list[int], packing: bool = False) -> Batch:
        return lay_out([example(ids) for ids in given], Layout(packing=packing, tokens=10_000))

    return make


def shake(model: Any, amount: float = 0.1) -> Any:
    """Move every trained weight, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn(parameter.shape))
    return model.eval()
