"""Attention in tiles against attention piece by piece in float64: values and gradients of all shapes of pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luthier.kernels import native
from luthier.kernels.attention import segment_attention
from luthier.kernels.tiles import places, tiled_attention

pytestmark = pytest.mark.skipif(native.reason() is not None, reason="no compiler")
Pieces = tuple[tuple[int, int | None], ...]

LONG: Pieces = ((200, None), (1, None), (130, None))
SHARED: Pieces = ((70, None), (50, 0), (1, 0), (90, 1), (64, None), (3, 4))
SHORT: Pieces = ((1, None), (1, 0), (2, None))


def heads(pieces: Pieces, *, kv_heads: int = 2, width: int = 32, seed: int = 0) -> list[Tensor]:
    """As a model gives them: `[B, H, T, D]` of what lies as `[B, T, H, D]`."""
    generator, tokens = torch.Generator().manual_seed(seed), sum(length for length, _ in pieces)
    return [torch.randn(1, tokens, n, width, generator=generator).transpose(1, 2) for n in (6, kv_heads, kv_heads)]


def found(compute: Any, inputs: list[Tensor], **settings: Any) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    outcome, _ = compute(torch.nn.Module(), *leaves, None, **settings)
    weights = torch.linspace(-1, 1, outcome.numel(), dtype=outcome.dtype).view_as(outcome)
    return [outcome.detach(), *torch.autograd.grad((outcome * weights).sum(), leaves)]


def near(inputs: list[Tensor], **settings: Any) -> None:
    """As near to float64 as torch's own kernel in float32, or to a millionth of the largest slope."""
    exact = found(segment_attention, [t.double() for t in inputs], **settings)
    plain = found(segment_attention, inputs, **settings)
    largest = max(float(t.norm()) for t in exact)
    for ours, torchs, theirs in zip(found(tiled_attention, inputs, **settings), plain, exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 2 * (torchs - theirs).norm() + 1e-6 * largest


@pytest.mark.parametrize("kv_heads", [6, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 37, 1000])
@pytest.mark.parametrize("pieces", [LONG, SHARED, SHORT], ids=["long", "shared", "short"])
def test_equals_attention_piece_by_piece(pieces: Pieces, window: int | None, kv_heads: int) -> None:
    near(heads(pieces, kv_heads=kv_heads), pieces=pieces, sliding_window=window, scaling=0.3)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_pieces(data: st.DataObject) -> None:
    pieces: list[tuple[int, int | None]] = []
    for number in range(data.draw(st.integers(1, 6))):
        before = [None, *range(number)]
        pieces.append((data.draw(st.integers(1, 80)), data.draw(st.sampled_from(before))))
    window = data.draw(st.none() | st.integers(1, 90))
    near(heads(tuple(pieces)), pieces=tuple(pieces), sliding_window=window)


def test_a_row_without_pieces_is_one() -> None:
    inputs = heads(((75, None),))
    assert all(map(torch.equal, found(tiled_attention, inputs), found(tiled_attention, inputs, pieces=((75, None),))))
    near(inputs)


@pytest.mark.parametrize("times", [30, 300, 3000])
def test_scores_that_are_far_apart(times: int) -> None:
    """Where exponents of a tile vanish beside those of another."""
    q, k, v = heads(((150, None),))
    near([q * times, k, v], scaling=1.0)


def test_scores_of_any_size_stay_finite() -> None:
    """As where a learning rate has ruined the weights."""
    q, k, v = heads(((150, None),))
    for outcome in found(tiled_attention, [q * 1e6, k * 1e6, v], scaling=0.3):
        assert outcome.isfinite().all() and outcome.abs().max() < 1e12


def test_a_piece_is_the_same_beside_others_and_on_any_number_of_threads() -> None:
    """To the last bit."""
    inputs, before = heads(LONG), torch.get_num_threads()
    alone = found(tiled_attention, [t[:, :, :200] for t in inputs], pieces=LONG[:1])
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            together, _ = tiled_attention(torch.nn.Module(), *inputs, None, pieces=LONG)  # type: ignore[call-arg]
            assert torch.equal(alone[0], together[:, :200])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_mixed_precision_runs_plain(kind: torch.dtype) -> None:
    """Where rotation has made queries and keys single, and values are not."""
    q, k, v = heads(((9, None),))
    with torch.autocast("cpu", kind):
        ours = found(tiled_attention, [q, k, v.to(kind)])
        plain = found(segment_attention, [q, k, v.to(kind)])
    assert all(map(torch.equal, ours, plain))


def test_what_tiles_do_not_fit_runs_plain() -> None:
    """To the last bit: padding masks, several rows, another width or type, and passes without gradients."""
    q, k, v = heads(((9, None),))
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    cases: list[tuple[list[Tensor], Tensor | None]] = [
        ([q, k, v], mask),
        ([t.expand(2, -1, -1, -1) for t in (q, k, v)], None),
        ([t[..., :5] for t in (q, k, v)], None),
        ([t.double() for t in (q, k, v)], None),
    ]
    for inputs, given_mask in cases:
        ours, _ = tiled_attention(torch.nn.Module(), *inputs, given_mask)  # type: ignore[call-arg]
        assert torch.equal(ours, segment_attention(torch.nn.Module(), *inputs, given_mask)[0])
    with torch.no_grad():
        ours, _ = tiled_attention(torch.nn.Module(), q, k, v, None)
        assert torch.equal(ours, segment_attention(torch.nn.Module(), q, k, v, None)[0])
    with pytest.raises(NotImplementedError, match="softcap"):
        tiled_attention(torch.nn.Module(), q, k, v, None, softcap=30.0)


def test_places() -> None:
    lines, keys, trees, most = places(((2, None), (1, 0), (1, None)))
    assert lines.tolist() == [[0, 2, 0, 2, 0], [2, 1, 2, 3, 0], [3, 1, 5, 1, 1]]
    assert keys.tolist() == [0, 1, 0, 1, 2, 3] and (trees, most) == (2, 3)
