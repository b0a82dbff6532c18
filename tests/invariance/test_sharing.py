"""Answers that share their prompt's computation say what they say alone: log-probabilities within 1e-6."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luthier.data.pack import Example, Layout, lay_out
from luthier.models.load import _use_segment_attention
from luthier.models.output import Forward
from luthier.objectives.dpo import Dpo
from tests.conftest import build_model
from tests.objectives.conftest import examples


def logprobs(model: Any, rows: list[Example], *, packing: bool) -> torch.Tensor:
    batch = lay_out(rows, Layout(packing=packing, tokens=10_000))
    assert packing == any(piece.parent is not None for piece in batch.pieces or ())
    with torch.no_grad():
        return Forward(model)(model, batch).logprobs(batch.targets).double()


@pytest.mark.parametrize("seed", range(4))
def test_a_shared_prompt_changes_nothing(tokenizer: Any, seed: int) -> None:
    model = build_model(len(tokenizer), seed=seed).eval()
    _use_segment_attention(model)
    rows = examples(tokenizer, Dpo(), 6)
    shared, apart = (logprobs(model, rows, packing=packing) for packing in (True, False))
    assert float((shared - apart).abs().max()) < 1e-6


@pytest.mark.slow
def test_of_the_real_model(tokenizer: Any) -> None:
    """In float64 to 1e-6 per answer; in float32 no further from that than plain padded rows are."""
    from luthier.config import ModelConfig
    from luthier.models.catalogue import entries
    from luthier.models.load import ModelLoader

    name = "smollm2-135m-instruct"
    if not entries()[name].fetched:
        pytest.skip("the real model is not on this machine")
    loader, config = ModelLoader(), ModelConfig(path=name)
    rows = examples(loader.tokenizer(config), Dpo(), 3)
    single = loader.load(config)
    found = {packing: logprobs(single, rows, packing=packing) for packing in (True, False)}
    exact = single.double()
    right = {packing: logprobs(exact, rows, packing=packing) for packing in (True, False)}
    assert float((right[True] - right[False]).abs().max()) < 1e-6
    off = {packing: float((found[packing] - right[False]).abs().max()) for packing in (True, False)}
    assert off[True] <= 2 * off[False] and off[True] < 1e-4
