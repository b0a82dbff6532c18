"""Sides: decided by what a row says, stable when other rows come and go, and never empty without need."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Text
from luthier.data.split import sides

SETTINGS = settings(deadline=None, max_examples=80)
MANY = [Text(f"row {i}").content_id for i in range(5000)]
SHARES = st.floats(0.01, 0.99)


@pytest.mark.parametrize("held_out", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_about_right(held_out: float) -> None:
    count = sides(MANY, held_out=held_out).count("held_out")
    assert abs(count - 5000 * held_out) < 4 * (5000 * held_out * (1 - held_out)) ** 0.5


def test_the_sides_of_known_rows() -> None:
    """Another hash would move rows of an old run from one side to the other."""
    assert [i for i, side in enumerate(sides(MANY[:40], held_out=0.1)) if side == "held_out"] == [6, 33]


@SETTINGS
@given(st.randoms(use_true_random=False), st.integers(50, 150), st.integers(100, 600), st.sampled_from([0.1, 0.3, 0.7]))
def test_a_row_stays_on_its_side(random: Any, few: int, many: int, held_out: float) -> None:
    """Rows are added, removed and reordered. Only where a side has a single row, that one may have been moved."""
    before = random.sample(MANY, few)
    after = list({*before[: len(before) // 2], *random.sample(MANY, many)})
    random.shuffle(after)
    was, now = (dict(zip(rows, sides(rows, held_out=held_out), strict=True)) for rows in (before, after))
    assume(all(list(one.values()).count(side) > 1 for one in (was, now) for side in ("train", "held_out")))
    assert {row: was[row] for row in was if row in now} == {row: now[row] for row in now if row in was}


@SETTINGS
@given(st.lists(st.sampled_from(MANY), max_size=60), SHARES, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(rows: list[str], held_out: float, random: Any) -> None:
    once = dict(zip(rows, sides(rows, held_out=held_out), strict=True))
    again = rows * 2
    random.shuffle(again)
    assert sides(again, held_out=held_out) == [once[row] for row in again]


@SETTINGS
@given(st.lists(st.sampled_from(MANY), min_size=1, max_size=5), SHARES)
def test_both_sides_exist_where_two_rows_differ(rows: list[str], held_out: float) -> None:
    found = set(sides(rows, held_out=held_out))
    assert found == ({"train", "held_out"} if len(set(rows)) > 1 else {"train"})


@SETTINGS
@given(st.lists(st.sampled_from(MANY), max_size=40), SHARES, SHARES)
def test_a_larger_share_takes_the_same_rows_and_more(rows: list[str], one: float, other: float) -> None:
    small, large = (sides(rows, held_out=share) for share in sorted((one, other)))
    assert all(more == "held_out" for less, more in zip(small, large, strict=True) if less == "held_out")


def test_nothing_is_held_out_where_nothing_is_asked() -> None:
    assert set(sides(MANY, held_out=0)) == {"train"}
    assert sides([], held_out=0.1) == []
