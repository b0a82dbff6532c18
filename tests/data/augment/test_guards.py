"""Each guard refuses what it is there for, and says why."""

from __future__ import annotations

import pytest

from luthier.data.augment.base import Guard, Pair
from luthier.data.augment.guards import Facts, NearDuplicates
from luthier.data.clean.base import Said, said
from luthier.data.conversation import Text
from tests.data.augment.conftest import talk

LONG = "".join(
    f"In town number {n} there are {n * 37} houses, as {n * 91} people told us in that year. " for n in range(9)
)


def row(text: str, where: str = "rows.jsonl:1") -> Said:
    return said(Text(text), where)


def judged(guard: Guard, before: str, *after: str) -> list[str]:
    drops = guard.judge([Pair(row(before), row(text, f"new {n}")) for n, text in enumerate(after)])
    return ["" if drop is None else drop.detail for drop in drops]


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        ("She has 3 dogs.", "She owns 3 dogs.", ""),
        ("She has 3 dogs.", "She has 4 dogs.", "lacks the number '3'"),
        ("3 and 3", "3 and more", "lacks the number '3'"),
        ("We saw Anna.", "We saw Hanna.", "lacks the name 'Anna'"),
        ("Run `ls`.", "Run `dir`.", "adds the code '`dir`'"),
        ("See https://a.example now.", "See it now.", "lacks the address 'https://a.example'"),
        ("Dear {name}, hi", "Dear friend, hi", "lacks the placeholder '{name}'"),
        ("It rains.", "It rains 5 days.", "adds the number '5'"),
        ("Rain falls.", "Water falls.", ""),
    ],
)
def test_facts(before: str, after: str, detail: str) -> None:
    assert judged(Facts().build(), before, after) == [detail]


def test_what_the_facts_guard_measures() -> None:
    drop = Facts().build().judge([Pair(row("1 2 3"), row("4 2 3"))])[0]
    assert drop is not None and (drop.rule, drop.score, drop.threshold) == ("facts", 2.0, 0.0)


def test_near_duplicates_of_rows_and_of_candidates() -> None:
    """A word in a hundred is nearly nothing; in a short row it is much."""
    guard = NearDuplicates().build()
    guard.know([row(LONG), row("A short question about rivers?", "rows.jsonl:2")])
    again = "Quite another row."
    found = judged(guard, LONG, LONG.replace("told", "wrote", 1), "A short question about streams?", again, again)
    assert found[0].endswith("% of what rows.jsonl:1 says")
    assert found[1:] == ["", "", "is 100 % of what new 2 says"]
    near = ("A short question about rivers?", "A short question about rivets?")
    assert judged(NearDuplicates(threshold=0.5).build(), "", *near) == ["", "is 85 % of what new 0 says"]


def test_what_is_compared() -> None:
    old, new = talk("How is the weather today?", LONG), talk("Is rain coming?", LONG)
    for of, refused in (("question", False), ("answer", True), ("text", True)):
        guard = NearDuplicates(of=of, threshold=0.8).build()  # type: ignore[arg-type]
        guard.know([said(old, "rows.jsonl:1")])
        drop = guard.judge([Pair(said(old, "rows.jsonl:1"), said(new, "new"))])[0]
        assert (drop is not None) is refused
