"""Segment attention against eager attention: segments, windows, grouped heads, and generation with left padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.data.pack import Piece
from luthier.kernels.attention import NAME, banded, register, segment_attention
from tests.conftest import build_model


def by_definition(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scaling: float) -> Tensor:
    """softmax(q k^T * scaling) v under a mask `[T, S]`, heads repeated."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def heads(length: int, kv_heads: int, *, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    shapes = [(batch, n, length, 8) for n in (4, kv_heads, kv_heads)]
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 3, 50])
@pytest.mark.parametrize("segments", [None, (12,), (5, 1, 6), (1,) * 12])
def test_equals_its_definition(segments: tuple[int, ...] | None, window: int | None, kv_heads: int) -> None:
    """Values and gradients: every position sees its own segment, itself and earlier, within the window."""
    query, key, value = heads(12, kv_heads)
    place, owner = (
        torch.arange(12),
        torch.repeat_interleave(torch.arange(len(segments or (12,))), torch.tensor(segments or (12,))),
    )
    pieces = None if segments is None else [Piece(length) for length in segments]
    distance = place[:, None] - place[None, :]
    allowed = (distance >= 0) & (owner[:, None] == owner[None, :])
    if window is not None:
        allowed &= distance < window
    expected = by_definition(query, key, value, allowed, 0.3)
    module = torch.nn.Module()
    found, _ = segment_attention(module, query, key, value, None, scaling=0.3, pieces=pieces, sliding_window=window)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    leaves = (query, key, value)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, slope), torch.autograd.grad(expected, leaves, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_segment_is_the_same_as_alone() -> None:
    """To the last bit, whatever stands beside it."""
    query, key, value = heads(20, 2)
    module = torch.nn.Module()
    together, _ = segment_attention(module, query, key, value, None, pieces=[Piece(7), Piece(9), Piece(4)])
    part = slice(7, 16)
    alone, _ = segment_attention(module, query[:, :, part], key[:, :, part], value[:, :, part], None)
    assert torch.equal(together[:, part], alone)


@pytest.mark.parametrize("window", [None, 3])
def test_answers_see_the_prompt_they_share_and_not_each_other(window: int | None) -> None:
    """A tree: a prompt, two answers to it (one of a single token), and a follow-up to the first; then a stranger."""
    pieces = [Piece(4), Piece(3, 0), Piece(1, 0), Piece(2, 1), Piece(2)]
    ancestors = [{0}, {0, 1}, {0, 2}, {0, 1, 3}, {4}]
    positions = [0, 1, 2, 3, 4, 5, 6, 4, 7, 8, 0, 1]
    owner = [number for number, piece in enumerate(pieces) for _ in range(piece.length)]
    allowed = torch.tensor(
        [
            [
                owner[k] in ancestors[owner[q]] and k <= q and (window is None or positions[q] - positions[k] < window)
                for k in range(12)
            ]
            for q in range(12)
        ]
    )
    query, key, value = heads(12, 2)
    found, _ = segment_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.3, pieces=pieces, sliding_window=window
    )
    expected = by_definition(query, key, value, allowed, 0.3)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    leaves = (query, key, value)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, slope), torch.autograd.grad(expected, leaves, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_mask_is_obeyed() -> None:
    query, key, value = heads(6, 2, batch=2)
    mask = torch.rand(2, 1, 6, 6) > 0.5
    mask |= torch.eye(6, dtype=torch.bool)
    found, _ = segment_attention(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, by_definition(query, key, value, mask, 0.3))


def test_banded() -> None:
    def shown(*given: int | None) -> list[list[int]]:
        return banded(*given, torch.device("cpu")).int().tolist()  # type: ignore[arg-type,call-arg]

    assert shown(4, 4, 2) == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert shown(2, 4, None) == [[1, 1, 1, 0], [1, 1, 1, 1]] and shown(2, 4, 2) == [[0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_variants_that_the_kernel_lacks_are_refused(name: str) -> None:
    query, key, value = heads(4, 4)
    arguments: dict[str, Any] = {name: torch.ones(4)}
    with pytest.raises(NotImplementedError, match=name):
        segment_attention(torch.nn.Module(), query, key, value, None, **arguments)
    segment_attention(torch.nn.Module(), query, key, value, None, **{name: None})


def windowed() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    few = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return MistralForCausalLM(MistralConfig(**shape, **few))


@pytest.mark.parametrize("build", [lambda: build_model(100), windowed], ids=["llama", "mistral-window"])
@pytest.mark.parametrize("padding", [(0, 0, 0), (6, 0, 3)], ids=["unpadded", "left-padded"])
def test_generation_equals_sdpa(build: Any, padding: tuple[int, ...]) -> None:
    """Greedy tokens and their logits, with prompts shorter and longer than the window."""
    register()
    model = build().eval()
    ids, mask = torch.randint(3, 100, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    for row, count in enumerate(padding):
        ids[row, :count], mask[row, :count] = 0, 0
    found = {}
    for name in ("sdpa", NAME):
        model.set_attn_implementation(name)
        settings = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found[name] = model.generate(ids, attention_mask=mask, pad_token_id=0, eos_token_id=99, **settings)
    assert torch.equal(found["sdpa"].sequences, found[NAME].sequences)
    torch.testing.assert_close(torch.stack(found["sdpa"].logits), torch.stack(found[NAME].logits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [lambda: build_model(100), windowed], ids=["llama", "mistral-window"])
def test_several_tokens_after_a_cache(build: Any) -> None:
    """A question after a conversation that is remembered, without any mask."""
    register()
    model = build().eval()
    ids = torch.randint(3, 100, (1, 14))
    model.set_attn_implementation(NAME)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :6], use_cache=True).past_key_values
        found = model(input_ids=ids[:, 6:], past_key_values=cache, use_cache=True).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(input_ids=ids, use_cache=False).logits[:, 6:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [lambda: build_model(100), windowed], ids=["llama", "mistral-window"])
def test_right_padding_equals_eager(build: Any) -> None:
    """As an unpacked micro-batch has it: no mask, and what stands to the right is never seen."""
    register()
    model = build().eval()
    ids = torch.randint(3, 100, (2, 14))
    model.set_attn_implementation(NAME)
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(input_ids=ids, use_cache=False).logits, atol=1e-5, rtol=1e-5)
