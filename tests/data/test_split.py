"""Sides: decided by what a row says, stable when other rows come and go, and never empty without need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Content, Conversation, Message, Preference, Text
from luthier.data.split import held_out as apart
from luthier.data.split import identities, strata


def sides(rows: Sequence[str], *, held_out: float, **own: Any) -> list[str]:
    """The side of each row."""
    return ["held_out" if one else "train" for one in apart(rows, share=held_out, **own)]


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


# ---- strata, and rows that belong together -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_another_seed_chooses_other_rows(seed: int) -> None:
    one, other = sides(MANY, held_out=0.1), sides(MANY, held_out=0.1, seed=seed)
    both = sum(a == b == "held_out" for a, b in zip(one, other, strict=True))
    assert other.count("held_out") == pytest.approx(500, abs=90) and both < 100


@pytest.mark.parametrize("count", [1, 7, 500, 4999, 9999])
def test_a_number_of_rows(count: int) -> None:
    assert sides(MANY, held_out=count).count("held_out") == min(count, 4999)


@SETTINGS
@given(st.lists(st.sampled_from("abcd"), min_size=20, max_size=400), st.sampled_from([0.1, 0.3, 40]))
def test_strata(kinds: list[str], held_out: float) -> None:
    chosen = sides(MANY[: len(kinds)], held_out=held_out, strata=kinds)
    for kind in set(kinds):
        own = [side for side, one in zip(chosen, kinds, strict=True) if one == kind]
        if len(own) > 1:
            assert {"train", "held_out"} == set(own) or (held_out == 40 and len(own) < 20)
    if held_out < 1:  # a row's side is the one it has without strata, but for those that are moved
        plain = sides(MANY[: len(kinds)], held_out=held_out)
        assert sum(a != b for a, b in zip(chosen, plain, strict=True)) <= 2 * len(set(kinds))


def talk(*said: str) -> Conversation:
    return Conversation(tuple(Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(said)))


def test_near_duplicates_stay_together() -> None:
    """Also where each is like the next, and the first is not like the last."""
    words = [f"word{n}" for n in range(60)]
    chain: list[Content] = [Text(" ".join(words[n : n + 50])) for n in range(0, 10, 2)]
    other: list[Content] = [Text(f"Something else, of number {n * 7919} and {n * 104729}.") for n in range(20)]
    names = identities([*other[:10], *chain, *other[10:]], ["near-duplicates"])
    assert len(set(names[10:15])) == 1 and len(set(names)) == 21
    assert identities(chain, []) == [one.content_id for one in chain]


def test_pieces_of_a_conversation_stay_together() -> None:
    pieces = [talk("a", "b"), talk("a", "b", "c", "d"), talk("x", "y"), talk("a", "e")]
    names = identities([*pieces, Text("a"), Preference(talk("a", "b"), talk("a", "f"))], ["conversations"])
    assert names[0] == names[1] == names[3] == names[5] and len(set(names)) == 3


def test_kinds_of_rows() -> None:
    answers: list[Content] = [talk("q", answer) for answer in ["yes"] * 6 + ["no"] * 5 + ["perhaps"] * 2]
    assert strata(answers, [], "label") == ["yes"] * 6 + ["no"] * 5 + [""] * 2
    assert strata(answers, ["f"] * 10 + ["g"] * 3, "source") == ["f"] * 10 + [""] * 3
    english, german = (
        "The river meets the sea near an old harbour.",
        "Der Fluss mündet nahe einem alten Hafen ins Meer.",
    )
    texts: list[Content] = [Text(english)] * 5 + [Text(german)] * 5
    assert strata(texts, [], "language") == ["en"] * 5 + ["de"] * 5
