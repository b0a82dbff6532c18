"""Rows put together anew: what moves, what never does, and that answers stay."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.augment.base import Candidate
from luthier.data.augment.facts import facts
from luthier.data.augment.recombination import Recombination, reordered
from luthier.data.conversation import Conversation, Labelled, Message, Preference, Task, Text
from tests.data.augment.conftest import talk

CONTEXT = "Anna is older than Ben. Carl has 2.50 dollars. Dora sold him a hat. She was glad. Eve sings. Who is oldest?"


def made(*rows: Any, **options: Any) -> list[Candidate]:
    return list(Recombination(**options).build().make(rows))


def orders(text: str) -> set[str]:
    return {reordered(text, Random(seed)) for seed in range(50)}


def test_sentences_move_with_those_that_refer_to_them() -> None:
    found = orders(CONTEXT)
    assert len(found) > 4 and CONTEXT not in found
    for text in found:
        assert text.endswith(" Who is oldest?") and sorted(text.split()) == sorted(CONTEXT.split())
        assert "Carl has 2.50 dollars. Dora sold him a hat. She was glad." in text


def test_lines_options_and_chinese() -> None:
    text = "Facts:\nRed is warm. Blue is cold.\nWhich is warm?\nA. red\nB. blue\n\nAnswer:"
    assert orders(text) == {text.replace("Red is warm. Blue is cold.", "Blue is cold. Red is warm.")}
    assert orders("张三十岁。李四八岁。谁大？") == {"李四八岁。张三十岁。谁大？"}


@pytest.mark.parametrize(
    "text",
    [
        "Red is warm. Blue is cold. Sort them.",
        "Red is warm. Blue is cold. Which comes first?",
        "Red is warm. Then blue follows. Which is warm?",
        "A cat came. The cat sat. Who sat?",
        "1. Red is warm. 2. Blue is cold. Which is warm?",
        "Passage: Red is warm. Blue is cold. Which is warm?",
        'He said "Red is warm. Blue is cold." Eve left. Who left?',
        "`a. B` is code. Blue is cold. Which is warm?",
        "Dr. Red is warm, who is it?",
        "张三十岁。他有狗。谁大？",
        "甲先到。乙后到。谁第一？",
        "?",
        "",
    ],
)
def test_texts_that_stay(text: str) -> None:
    assert orders(text) == {text}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*CONTEXT.split(), "?", "`x. Y`", "1.", "。", "\n", "Mr.", '"A. B."']), max_size=25),
    st.integers(0, 9),
)
def test_nothing_is_lost(words: list[str], seed: int) -> None:
    text = " ".join(words)
    new = reordered(text, Random(seed))
    assert sorted(new.split()) == sorted(text.split()) and facts(new) == facts(text)


def test_the_question_moves_and_answers_do_not() -> None:
    user = Message(role="user", content=CONTEXT)
    pair = Preference(*(Conversation((user, Message(role="assistant", content=CONTEXT + n))) for n in "ab"))
    rows = [pair, Labelled(pair.chosen, True), Task(Conversation((user,)), CONTEXT), pair.rejected]
    found = made(*rows, modes=["reorder"])
    assert [(one.parent, one.method, one.others) for one in found] == [
        (n, "recombination: reorder", ()) for n in range(4)
    ]
    new = found[0].content
    assert isinstance(new, Preference) and new.chosen.messages[0] == new.rejected.messages[0] != user
    assert (new.chosen.messages[1], new.rejected.messages[1]) == (pair.chosen.messages[1], pair.rejected.messages[1])
    assert found[2].content.answer == CONTEXT and found[3].content.messages[1] == pair.rejected.messages[1]  # type: ignore[union-attr]
    assert made(Text("Red is warm."), modes=["reorder"]) == []


SHORT = [talk(f"What is {word}, and why is it {word}?", f"It is {word * 2}.") for word in ("ice", "fog", "rain", "sun")]


def test_two_questions_as_one() -> None:
    row = made(*SHORT, modes=["questions"])[1]
    asked, answer = (turn.content for turn in row.content.messages)  # type: ignore[union-attr]
    other = SHORT[row.others[0]].messages
    assert asked == f"{SHORT[1].messages[0].content}\n{other[0].content}"
    assert answer == f"It is fogfog.\n\n{other[1].content}"
    long = talk("What is this? " * 30, "Nothing.")
    for unfit in (talk("Name it.", "Ice."), talk("One?\nTwo?", "Three."), long, talk("A?", "b " * 400)):
        assert all(0 not in (one.parent, *one.others) for one in made(unfit, *SHORT, modes=["questions"]))


def test_two_rows_as_two_turns() -> None:
    """The most alike that do not say the same, with the same system message."""
    rows = [
        talk("How do I bake a loaf of bread at home?", "Knead, wait, bake.", system="Be kind."),
        talk("How do I bake a cake at home with eggs?", "Stir and bake.", system="Be kind."),
        talk("Who painted this?", "Nobody.", system="Be kind."),
        talk("How do I bake a loaf of bread at home??", "Knead, wait, bake.", system="Be kind."),
        talk("How do I bake a loaf at home?", "Bake.", system="Be rude."),
    ]
    first = made(*rows, modes=["dialogue"])[0]
    assert (first.others, first.method) == ((1,), "recombination: dialogue")
    assert first.content == Conversation((*rows[0].messages, *rows[1].messages[1:]))
    assert not any(4 in (one.parent, *one.others) for one in made(*rows, modes=["dialogue"]))


@pytest.mark.parametrize(
    "unfit",
    [
        talk("a?", "b", "c?", "d"), Text("a?"), Labelled(talk("a?", "b"), True), Task(talk("a?")),
        Conversation(talk("a?", "b").messages, ({"function": {"name": "f"}},)),
        Conversation((talk("a?").messages[0], Message(role="assistant", content="b", weight=0.0))),
        Conversation((talk("a?").messages[0], Message(role="assistant", content="b", reasoning="c"))),
        talk("谁是甲？", "甲。"),
    ],
)  # fmt: skip
def test_rows_that_are_not_joined(unfit: Any) -> None:
    found = made(unfit, *SHORT, modes=["dialogue", "questions"])
    assert found and not any(0 in (one.parent, *one.others) for one in found)


def test_the_same_for_a_seed_in_any_order() -> None:
    rows = [*SHORT, talk(CONTEXT, "Anna.")]
    one, other = made(*rows, copies=8), made(*rows[::-1], copies=8)
    assert {c.content.content_id for c in one} == {c.content.content_id for c in other}
    assert [c.parent for c in one] == sorted(c.parent for c in one)
    assert {c.content.content_id for c in made(*rows, copies=8, seed=5)} != {c.content.content_id for c in one}
    assert {c.method for c in one} == {f"recombination: {mode}" for mode in ("reorder", "dialogue", "questions")}
