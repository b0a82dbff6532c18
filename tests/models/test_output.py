"""The head sees only the positions that are asked about, and bent heads are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from luthier.data.conversation import Origin, Text
from luthier.data.pack import Batch, Example, Layout, lay_out
from luthier.data.render import Tokens
from luthier.errors import ModelError
from luthier.models.load import _use_segment_attention
from luthier.models.output import Forward, head_is_bent
from tests.conftest import build_model

VOCABULARY = 100
LAYOUTS = {"packed": Layout(packing=True, tokens=1000), "padded": Layout(packing=False, tokens=1000)}


def batch_of(*asked: list[int], layout: Layout = LAYOUTS["packed"]) -> Batch:
    """One sequence for each list; of every sequence the tokens at the listed places are targets."""
    generator = np.random.default_rng(0)
    examples = []
    for places in asked:
        weights = np.zeros(12 + len(places), dtype=np.float32)
        weights[places] = 1
        ids = generator.integers(3, VOCABULARY, len(weights)).astype(np.int32)
        examples.append(Example(Origin("memory", 1), "", (Tokens(ids, weights),), Text("")))
    return lay_out(examples, layout)


def llama(**changes: Any) -> Any:
    model = build_model(VOCABULARY, **changes).eval()
    _use_segment_attention(model)
    return model


def capped(strength: float | None) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attn_logit_softcapping": None}
    return Gemma2ForCausalLM(Gemma2Config(**shape, **heads, final_logit_softcapping=strength)).eval()


def scaled(by: float) -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return CohereForCausalLM(CohereConfig(**shape, **heads, logit_scale=by)).eval()


class AddsOne(nn.Linear):
    """A head of another kind."""

    def forward(self, given: Tensor) -> Tensor:
        return super().forward(given) + torch.arange(self.out_features)


def own_head() -> Any:
    model = llama(tie_word_embeddings=False)
    model.lm_head = AddsOne(64, VOCABULARY)
    return model


BENT = {"capped": lambda: capped(0.1), "capped far out": lambda: capped(30.0), "scaled": lambda: scaled(0.5)}
PLAIN = {"llama": llama, "gemma, not capped": lambda: capped(None), "cohere, not scaled": lambda: scaled(1.0)}
HEADS = {**PLAIN, **BENT, "own kind": own_head}


@pytest.mark.parametrize("kind", [*PLAIN, *BENT])
def test_bent_heads_are_found(kind: str) -> None:
    model = HEADS[kind]()
    model.train()
    assert head_is_bent(model) is (kind in BENT)
    assert model.training, "asking must not change the model"
    assert Forward(model).plain_head is (kind in PLAIN)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_logits_of_the_model(kind: str, layout: str) -> None:
    model = HEADS[kind]()
    forward = Forward(model)
    if layout == "packed" and model.config._attn_implementation != "luthier":
        _use_segment_attention(model)
    batch = batch_of([3, 4, 9], [], [1, 13], layout=LAYOUTS[layout])
    found = forward(model, batch).logprobs(batch.targets)
    expected = []
    for number, segment in enumerate(batch.segments):
        ids = batch.ids.flatten()[segment.start : segment.start + segment.length]
        logprobs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
        mine = batch.targets.segment == number
        places = batch.targets.position[mine] - segment.start
        expected.append(logprobs[places, batch.targets.label[mine]])
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("asked", [([5],), ([1, 2, 3], [], [4]), ([],)], ids=str)
def test_the_head_computes_nothing_that_is_not_asked(kind: str, asked: tuple[list[int], ...]) -> None:
    model = HEADS[kind]()
    forward, batch = Forward(model), batch_of(*asked, layout=LAYOUTS["padded"])
    rows = []
    with model.get_output_embeddings().register_forward_hook(lambda head, args, out: rows.append(args[0].shape[0])):
        result = forward(model, batch).logprobs(batch.targets)
    wanted = sum(map(len, asked))
    assert rows == [0 if forward.plain_head else wanted]  # a plain head is left to the kernel
    assert result.shape == (wanted,)


def test_no_hook_is_left_behind() -> None:
    model = llama()
    forward, batch = Forward(model), batch_of([5])
    forward(model, batch)
    broken = replace(batch, ids=batch.ids + 10_000)
    with pytest.raises(IndexError):
        forward(model, broken)
    assert not forward.head._forward_pre_hooks and not forward.head._forward_hooks


def test_without_targets_the_gradients_are_zero() -> None:
    """A rank with nothing to do still takes part in the backward pass."""
    model = llama()
    batch = lay_out([], LAYOUTS["packed"])
    Forward(model)(model, batch).logprobs(batch.targets).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_model_without_a_head() -> None:
    with pytest.raises(ModelError, match="has no output head"):
        Forward(llama().model)
