"""Micro-batches: every example once, limits kept, and every token, position and target where it belongs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Origin, Text
from luthier.data.pack import Batch, Example, Layout, Piece, lay_out, plan
from luthier.data.render import Tokens

SETTINGS = settings(deadline=None, max_examples=150)
LENGTHS = st.lists(st.integers(1, 60), max_size=30)
LAYOUTS = st.builds(
    Layout, packing=st.booleans(), tokens=st.integers(1, 200), rows=st.none() | st.integers(1, 6), pad_id=st.just(99)
)


def tokens(ids: Sequence[int], weights: Sequence[float]) -> Tokens:
    return Tokens(np.asarray(ids, dtype=np.int32), np.asarray(weights, dtype=np.float32))


def made(*sequences: Tokens) -> Example:
    return Example(Origin("f.json", 1), "", sequences, Text(""))


def branch(prompt: list[int], answers: list[list[int]]) -> Example:
    return made(*(tokens([*prompt, *answer], [0] * len(prompt) + [1] * len(answer)) for answer in answers))


IDS = st.lists(st.integers(0, 3), min_size=1, max_size=12)
BRANCHED = st.builds(branch, IDS, st.lists(IDS, min_size=1, max_size=4))
"""A prompt with answers that may begin alike."""


def cost(group: Sequence[int], lengths: Sequence[int], layout: Layout) -> int:
    """Tokens of one forward pass over these examples."""
    longest = max(lengths[i] for i in group)
    return sum(lengths[i] for i in group) if layout.packing else longest * len(group)


# ---- plan --------------------------------------------------------------------------------------------------------


@SETTINGS
@given(LENGTHS, LAYOUTS, st.integers(1, 5))
def test_plan(lengths: list[int], layout: Layout, ranks: int) -> None:
    shares = plan(lengths, layout, ranks=ranks)
    groups = [group for share in shares for group in share if group]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert len(shares) == ranks and len({len(share) for share in shares}) == 1
    for group in groups:
        assert cost(group, lengths, layout) <= layout.tokens or len(group) == 1
        assert layout.rows is None or len(group) <= layout.rows
    assert plan(list(lengths), layout, ranks=ranks) == shares
    if len(lengths) >= ranks:
        assert all(any(share) for share in shares)  # nobody idles


@SETTINGS
@given(LENGTHS, LAYOUTS)
def test_groups_are_those_of_plain_first_fit(lengths: list[int], layout: Layout) -> None:
    """The tree of rooms is only faster than looking at every group in turn."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [
            group
            for group in groups
            if (layout.rows is None or len(group) < layout.rows)
            and cost([*group, index], lengths, layout) <= layout.tokens
        ]
        fits[0].append(index) if fits else groups.append([index])
    found = [group for group in plan(lengths, layout, ranks=1)[0] if group]
    assert sorted(found) == sorted(groups)


def test_an_over_long_row_passes_alone() -> None:
    for packing in (True, False):
        assert plan([5, 500, 5], Layout(packing=packing, tokens=16), ranks=1) == [[[1], [0, 2]]]
    assert plan([5, 500, 5], Layout(packing=True, tokens=16, rows=1), ranks=1) == [[[1], [0], [2]]]


def test_loads_are_shared_and_counts_are_equal() -> None:
    assert plan([8, 8, 8, 8], Layout(packing=True, tokens=8), ranks=2) == [[[0], [2]], [[1], [3]]]
    assert plan([9, 3, 3, 3], Layout(packing=True, tokens=9), ranks=2) == [[[0]], [[1, 2, 3]]]
    assert plan([4, 4], Layout(packing=True, tokens=99), ranks=2) == [[[0]], [[1]]]  # room for both, but two ranks
    assert plan([4], Layout(packing=True, tokens=99), ranks=3) == [[[0]], [[]], [[]]]
    assert plan([], Layout(packing=True, tokens=99), ranks=2) == [[], []]


def test_thousands_of_rows_are_planned_in_no_time() -> None:
    lengths = [20 + i * 7919 % 400 for i in range(20_000)]
    for packing in (True, False):
        groups = plan(lengths, Layout(packing=packing, tokens=512), ranks=1)[0]
        assert sum(len(group) for group in groups) == len(lengths)


# ---- lay_out -----------------------------------------------------------------------------------------------------

SEQUENCES = st.lists(st.tuples(st.integers(0, 90), st.sampled_from([0.0, 0.0, 1.0, 0.25])), min_size=1, max_size=8).map(
    lambda pairs: tokens([i for i, _ in pairs], [0.0, *(weight for _, weight in pairs[1:])])
)
EXAMPLES = st.lists(st.lists(SEQUENCES, min_size=1, max_size=3).map(lambda some: made(*some)), min_size=1, max_size=5)


def check(batch: Batch, examples: Sequence[Example], *, packing: bool, pad_id: int = 99) -> None:
    """Every sequence stands whole in its place or behind what it shares; asked is for its supervised tokens."""
    sequences = [(i, sequence) for i, example in enumerate(examples) for sequence in example.sequences]
    ids, positions = batch.ids.flatten(), batch.positions.flatten()
    shared = [example.shared if packing else 0 for example in examples]
    asked: list[tuple[int, int, float, int, int]] = []
    covered = torch.zeros(len(ids), dtype=torch.bool)
    assert len(batch.segments) == len(sequences)
    first: dict[int, int] = {}  # where the first segment of an example begins: what it shares stands before it
    for number, ((owner, sequence), segment) in enumerate(zip(sequences, batch.segments, strict=True)):
        before = first.setdefault(owner, segment.start) - shared[owner]
        own = range(segment.start, segment.start + segment.own)
        places = [*range(before, before + shared[owner]), *own]
        assert (segment.example, segment.length, segment.own) == (owner, len(sequence), len(sequence) - shared[owner])
        assert ids[places].tolist() == sequence.ids.tolist()
        assert positions[places].tolist() == list(range(len(sequence)))
        assert not covered[own].any()
        covered[places] = True
        for at in range(1, len(sequence)):
            if sequence.weights[at] > 0:
                asked.append((places[at - 1], int(sequence.ids[at]), float(sequence.weights[at]), number, places[at]))
    targets = batch.targets
    columns = (targets.position, targets.label, targets.weight, targets.segment, targets.place)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == asked
    assert len(targets) == len(asked) == sum(example.supervised for example in examples)
    assert (ids[~covered] == pad_id).all() and (positions[~covered] == 0).all()
    lengths = [len(sequence) for _, sequence in sequences]
    width = sum(lengths) - sum((len(e.sequences) - 1) * s for e, s in zip(examples, shared, strict=True))
    assert tuple(batch.ids.shape) == ((1, width) if packing else (len(lengths), max(lengths)))
    assert batch.positions.shape == batch.ids.shape
    assert {column.dtype for column in columns} == {torch.int64, torch.float32} and batch.ids.dtype == torch.int64
    assert batch.contents == tuple(example.content for example in examples)
    if not packing:
        assert batch.pieces is None
        return
    assert batch.pieces is not None and sum(piece.length for piece in batch.pieces) == width
    assert sum(Layout(packing=True, tokens=9).size(example) for example in examples) == width


@SETTINGS
@given(EXAMPLES, st.booleans())
def test_lay_out(examples: list[Example], packing: bool) -> None:
    check(lay_out(examples, Layout(packing=packing, tokens=9, pad_id=99)), examples, packing=packing)


@SETTINGS
@given(st.lists(BRANCHED, min_size=1, max_size=4), st.booleans())
def test_a_prompt_that_answers_share_stands_once(examples: list[Example], packing: bool) -> None:
    check(lay_out(examples, Layout(packing=packing, tokens=9, pad_id=99)), examples, packing=packing)


def test_shared_by_hand() -> None:
    """The first token of both answers is predicted at the same position: the prompt's last."""
    prompt = list(range(10, 18))
    one, two = tokens([*prompt, 1, 2], [0] * 8 + [1, 1]), tokens([*prompt, 3, 4, 5], [0] * 8 + [1, 1, 1])
    batch = lay_out([made(ONE), made(one, two)], Layout(packing=True, tokens=99))
    assert batch.ids.tolist() == [[5, 6, 7, *prompt, 1, 2, 3, 4, 5]]
    assert batch.positions.tolist() == [[0, 1, 2, *range(8), 8, 9, 8, 9, 10]]
    assert batch.pieces == (Piece(3), Piece(8), Piece(2, 1), Piece(3, 1))
    assert batch.targets.position.tolist() == [1, 10, 11, 10, 13, 14]
    assert batch.targets.place.tolist() == [2, 11, 12, 13, 14, 15]
    assert [segment.length for segment in batch.segments] == [3, 10, 11]


@pytest.mark.parametrize(
    ("weights", "shared"),
    [([0] * 10, 9), ([0] * 8 + [1, 1], 8), ([0] * 4 + [1] + [0] * 5, 0), ([0] * 9 + [1], 9)],
)
def test_only_what_is_not_supervised_is_shared(weights: list[int], shared: int) -> None:
    ids = list(range(10))
    assert made(tokens(ids, weights), tokens([*ids, 7], [*weights, 1])).shared == shared


ONE, TWO = tokens([5, 6, 7], [0, 0, 1]), tokens([8, 9], [0, 0.5])


def test_packed_by_hand() -> None:
    batch = lay_out([made(ONE, TWO), made(ONE)], Layout(packing=True, tokens=99))
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 5, 6, 7]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch.targets.position.tolist() == [1, 3, 6]
    assert batch.targets.label.tolist() == [7, 9, 7]
    assert batch.targets.weight.tolist() == [1, 0.5, 1]
    assert batch.targets.segment.tolist() == [0, 1, 2]
    assert [segment.example for segment in batch.segments] == [0, 0, 1]
    assert batch.pieces == (Piece(3), Piece(2), Piece(3))


def test_padded_by_hand() -> None:
    batch = lay_out([made(ONE, TWO)], Layout(packing=False, tokens=99, pad_id=4))
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 4]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert batch.targets.position.tolist() == [1, 3]
    assert batch.pieces is None


@pytest.mark.parametrize("packing", [True, False])
def test_a_first_token_is_never_asked_for(packing: bool) -> None:
    """What stands before it in a packed row is another sequence."""
    batch = lay_out([made(ONE, tokens([8, 9], [1, 1]))], Layout(packing=packing, tokens=99))
    assert batch.targets.label.tolist() == [7, 9]


@pytest.mark.parametrize("packing", [True, False])
def test_nothing_to_do_is_one_blank_token_without_targets(packing: bool) -> None:
    batch = lay_out([], Layout(packing=packing, tokens=9, pad_id=4))
    assert batch.ids.tolist() == [[4]] and batch.positions.tolist() == [[0]]
    assert len(batch.targets) == 0 and batch.targets.label.dtype == torch.int64
    assert batch.pieces == ((Piece(1),) if packing else None)


def test_a_batch_moves_whole() -> None:
    batch = lay_out([made(ONE, TWO)], Layout(packing=True, tokens=99)).to(torch.device("meta"))
    t = batch.targets
    moved = (batch.ids, batch.positions, t.position, t.label, t.weight, t.segment, t.place)
    assert {tensor.device.type for tensor in moved} == {"meta"}
    assert batch.pieces == (Piece(3), Piece(2)) and len(batch.segments) == 2


def test_what_an_example_counts() -> None:
    assert (made(ONE, TWO).tokens, made(ONE, TWO).supervised) == (5, 2)
