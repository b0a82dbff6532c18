"""The order of rows: every row once per epoch, resumable anywhere, and the same on any number of ranks."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Origin, Text
from luthier.data.loader import Loader, Step
from luthier.data.pack import Example, Layout
from luthier.data.render import Tokens

SETTINGS = settings(deadline=None, max_examples=60)
COUNTS = st.integers(1, 25)
SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**31)


def made(row: int) -> Example:
    """An example whose every token is its number."""
    length = 2 + row * 7 % 11
    weights = np.asarray([0] + [1] * (length - 1), dtype=np.float32)
    return Example(Origin("f.json", row), str(row), (Tokens(np.full(length, row, dtype=np.int32), weights),), Text(""))


def loader(
    count: int, batch_size: int, seed: int = 0, *, rank: int = 0, ranks: int = 1, packing: bool = True
) -> Loader:
    layout = Layout(packing=packing, tokens=30, pad_id=10**6)
    examples = [made(row) for row in range(count)]
    return Loader(examples, batch_size=batch_size, seed=seed, layout=layout, rank=rank, ranks=ranks)


def rows(step: Step) -> list[int]:
    return [example.origin.line for example in step.examples]


def told(step: Step) -> tuple[list[int], int, int, list[list[int]]]:
    """A step as plain values."""
    return rows(step), step.epoch, step.position, [batch.ids.flatten().tolist() for batch in step.micro_batches]


@SETTINGS
@given(COUNTS, SIZES, SEEDS)
def test_every_row_once_per_epoch(count: int, batch_size: int, seed: int) -> None:
    deal = loader(count, batch_size, seed)
    for epoch in range(3):
        steps = list(islice(deal.steps(epoch=epoch), deal.steps_per_epoch))
        assert sorted(row for step in steps for row in rows(step)) == list(range(count))
        sizes = [len(step.examples) for step in steps]
        assert sizes == [batch_size] * (count // batch_size) + ([count % batch_size] if count % batch_size else [])
        assert [(step.epoch, step.position) for step in steps] == [
            *[(epoch, batch_size * number) for number in range(1, len(steps))],
            (epoch + 1, 0),
        ]


@SETTINGS
@given(COUNTS, SIZES, SEEDS, st.integers(0, 20), st.integers(1, 12))
def test_resuming_continues_the_same_sequence(count: int, batch_size: int, seed: int, done: int, more: int) -> None:
    whole = list(islice(loader(count, batch_size, seed).steps(), done + more))
    place = {"epoch": whole[done - 1].epoch, "position": whole[done - 1].position} if done else {}
    rest = islice(loader(count, batch_size, seed).steps(**place), more)
    assert [told(step) for step in rest] == [told(step) for step in whole[done:]]


@SETTINGS
@given(COUNTS, SIZES, SEEDS, st.integers(2, 5), st.booleans())
def test_ranks_share_the_steps_of_one_rank(count: int, batch_size: int, seed: int, ranks: int, packing: bool) -> None:
    deals = [loader(count, batch_size, seed, rank=rank, ranks=ranks, packing=packing).steps() for rank in range(ranks)]
    for alone, *shares in islice(
        zip(loader(count, batch_size, seed, packing=packing).steps(), *deals, strict=False), 6
    ):
        assert all(rows(share) == rows(alone) for share in shares)
        assert len({(share.epoch, share.position, len(share.micro_batches)) for share in shares}) == 1
        asked = [b.targets.label for share in shares for b in share.micro_batches]
        once = [b.targets.label for b in alone.micro_batches]
        assert sorted(int(i) for part in asked for i in part) == sorted(int(i) for part in once for i in part)
        dealt = [s for share in shares for b in share.micro_batches for s in b.segments if len(b.targets)]
        assert len(dealt) == len(alone.examples)


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): loader(50, 8, seed).order(epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    assert list(range(50)) not in orders.values()
    assert loader(50, 3, 2, rank=1, ranks=4, packing=False).order(1).tolist() == orders[2, 1]


def test_the_order_is_the_one_on_record() -> None:
    """Another order would make checkpoints of before continue with other rows."""
    assert loader(10, 4).order(0).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]


def test_the_size_of_an_epoch() -> None:
    assert [loader(count, 4).steps_per_epoch for count in (1, 4, 5, 8)] == [1, 1, 2, 2]
    deal = loader(10, 4)
    assert deal.tokens_per_step == 4 * sum(example.tokens for example in deal.examples) / 10
