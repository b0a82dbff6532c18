"""Of rows that say the same, or almost, the first stays."""

from __future__ import annotations

import json
import random
from pathlib import Path
from random import Random
from typing import Any

import pytest

from luthier.config import SourceConfig
from luthier.data.clean.duplicates import Duplicates
from luthier.data.clean.near import Index, NearDuplicates, bands, jaccard, shingles
from luthier.data.clean.run import clean_source
from tests.data.clean.conftest import rules

WORDS = [
    f"{a}{b}"
    for a in ("lo", "mi", "ra", "tu", "ke", "so", "ni", "pa")
    for b in ("sta", "rem", "vol", "din", "gar", "mek")
]


def text(chance: random.Random, words: int = 40) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def test_duplicates(cleaned: Any) -> None:
    rows = [
        ("Who?", "Me."),
        ("who", "me"),
        ("Who?", "Me."),
        ("Ｗｈｏ？", " ME! "),
        ("Who?", "You."),
        ("1+1", "2"),
        ("1-1", "2"),
    ]
    found = cleaned(Duplicates(), *rows)
    assert rules(found) == ["", "duplicate", "duplicate", "duplicate", "", "", ""]
    assert found[2].drop.detail == "says what rows.jsonl:1 says"
    assert rules(cleaned(Duplicates(exact=True), *rows)) == ["", "", "duplicate", "", "", "", ""]
    assert rules(cleaned(Duplicates(), ("?", "!"), ("!", "?"), ("?", "!"))) == ["", "", "duplicate"]


def test_rows_of_one_line(tmp_path: Path) -> None:
    """A compact array has all its rows on line 1."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "Who?", "completion": "Me."}] * 3))
    for cleaner in (Duplicates(), NearDuplicates()):
        assert clean_source(SourceConfig(path=str(path)), [cleaner], None).kept == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5", "15"), ("1,5", "15"), ("-5", "5"), ("x²", "x2"), ("2²", "22"), ("yes 👍", "yes 👎"), ("की", "कि"),
        ("C#", "C"), ("50%", "50"), ("a.b", "ab"), ("½", "1/2"), ("น้ำ", "นำ"),
    ],
)  # fmt: skip
def test_what_says_something_else(cleaned: Any, one: str, other: str) -> None:
    assert rules(cleaned(Duplicates(), ("Is it?", f"It is {one} now"), ("Is it?", f"It is {other} now"))) == ["", ""]


def test_near_duplicates(cleaned: Any) -> None:
    chance = random.Random(0)
    rows, expected = [], []
    for number in range(300):
        original = text(chance)
        rows.append((f"q{number}", original))
        expected.append("")
        if number % 3 == 0:
            words = original.split()
            words[chance.randrange(len(words))] = "changed"
            rows.append((f"q{number}", " ".join(words)))
            expected.append("near-duplicate")
    assert rules(cleaned(NearDuplicates(threshold=0.7), *rows)) == expected
    assert set(rules(cleaned(NearDuplicates(threshold=0.99), *rows))) == {""}


def test_among_rows_that_are_all_alike_one_is_still_found(cleaned: Any) -> None:
    """Forms that differ in a third of their text: thousands of candidates, none of which is nearly the same."""
    form = "Dear Sir or Madam, we write to you about the order that you placed with us and that we have now received. "
    own = ["".join(Random(n).choices("abcdefghij klmnop", k=70)) for n in range(1500)]
    rows = [("Write a letter.", form + text) for text in own]
    found = cleaned(NearDuplicates(), *rows, ("Write a letter.", form + own[1400][:-2] + "xy"))
    assert [n for n, rule in enumerate(rules(found)) if rule] == [1500]
    assert "rows.jsonl:1401" in found[-1].drop.detail


def test_nothing_is_like_nothing() -> None:
    index = Index(0.8)
    assert index.sketches([]) == [] and index.match(index.sketches([""])[0]) == (0.0, None)


def test_what_is_compared(cleaned: Any) -> None:
    chance = random.Random(1)
    asked = text(chance)
    rows = [(asked, text(chance)), (asked + " x", text(chance))]
    assert rules(cleaned(NearDuplicates(), *rows)) == ["", ""]
    assert rules(cleaned(NearDuplicates(of="question"), *rows)) == ["", "near-duplicate"]


def test_scripts_without_spaces(cleaned: Any) -> None:
    one = "我们在学校里学习中文，老师说这个问题很重要，大家都应该认真地回答。"
    rows = [("问", one), ("问", one.replace("很", "非常")), ("问", "今天天气不错，我们一起去公园散步，然后回家吃饭。")]
    assert rules(cleaned(NearDuplicates(threshold=0.7), *rows)) == ["", "near-duplicate", ""]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_candidates_are_found(threshold: float) -> None:
    count = bands(threshold)
    rows = 128 // count
    assert 1 - (1 - threshold**rows) ** count >= 0.999
    assert count == 1 or 1 - (1 - threshold ** (2 * rows)) ** (count // 2) < 0.999  # no fewer would do


def test_similarity_is_that_of_sets() -> None:
    one, other = shingles("abcdefghij"), shingles("abcdefghik")
    assert len(one) == 6 and jaccard(one, other) == pytest.approx(5 / 7)
    assert jaccard(one, one) == 1.0
    assert len(shingles("")) == 0 and len(shingles("ab")) == 1
    chance = random.Random(2)
    long = text(chance, 4000)
    changed = long[: len(long) // 2] + text(chance, 2000)
    exact = {long[i : i + 5] for i in range(len(long))}, {changed[i : i + 5] for i in range(len(changed))}
    assert jaccard(shingles(long), shingles(changed)) == pytest.approx(
        len(exact[0] & exact[1]) / len(exact[0] | exact[1]), abs=0.05
    )
