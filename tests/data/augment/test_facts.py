"""What must stay is found, wherever it stands; and where sentences end."""

from __future__ import annotations

import time

import pytest

from luthier.data.augment.facts import facts, open_text, sentences

TEXT = (
    "The city of Berlin has 3,769,000 people. See https://b.example/x?a=1, `city()` and {city} or <city>, says Dr. Ok."
)


def test_facts_by_kind() -> None:
    assert dict(facts(TEXT)) == {
        ("code", "`city()`"): 1, ("address", "https://b.example/x?a=1"): 1, ("placeholder", "{city}"): 1,
        ("placeholder", "<city>"): 1, ("number", "3,769,000"): 1, ("name", "Berlin"): 1, ("name", "Dr"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a city `city` a city", "a city  a city"),
        ("city\n```\ncity\n```\ncity", "city\n\ncity"),
        ("city\n    city = 1\ncity", "city\n\ncity"),
        ("int city;\ncity", "\ncity"),
        ("the \"city\" and “city” and 'city' and 「city」 city", "the  and  and  and  city"),
        ("What?\nA. city\n(b) city", "What?\n\n"),
        ("We saw City Hall. Old Town is old.", "We saw  .   is old."),
        ("Old city", "Old city"),
        ("mail a.city@b.example city", "mail  city"),
        ("pay $x and 20% of [CITY] now", "pay  and % of  now"),
    ],
)
def test_what_is_closed(text: str, left: str) -> None:
    opened = open_text(text)
    assert len(opened) == len(text) and opened.replace("\0", "") == left


def test_sentences() -> None:
    text = "Dr. Smith came at 5. He left! Why? So."
    assert sentences(text) == ["Dr. Smith came at 5. He left!", "Why?", "So."]
    assert sentences("张三来了。李四走了！谁走了？") == ["张三来了。", "李四走了！", "谁走了？"]
    assert sentences("") == []


@pytest.mark.parametrize("piece", ["1", "a-", "a@", "“", "'a", "www.", "Ab ", "Abc. ", ";\n", "%("])
def test_awkward_texts_take_no_time(piece: str) -> None:
    begun = time.perf_counter()
    facts(piece * 10_000)
    open_text(piece * 10_000)
    assert time.perf_counter() - begun < 3
