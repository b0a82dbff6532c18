"""New rows by rewriting: which text is rewritten, where the new one stands, and what is no new row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.curate.rewrite import (
    BATCH,
    BackTranslation,
    Paraphrase,
    Questions,
    asked_about,
    bare,
    questions_of,
    with_questions,
)
from luthier.curate.writer import Writer
from luthier.data.conversation import Content, Conversation, Labelled, Message, Preference, Task, Text
from tests.curate.conftest import talk
from tests.endpoint import Endpoint

Tell = Callable[[Callable[[str], str]], None]
LONG = Conversation(
    (Message(role="system", content="s"), *talk("one", "two").messages, *talk("three", "four").messages)
)
ROWS: list[Content] = [
    LONG,
    Text("a text"),
    Preference(talk("q", "yes"), talk("q", "no")),
    Labelled(talk("q", "yes"), wanted=False),
    Task(Conversation(LONG.messages[:4]), "4"),
]


def last_line(prompt: str) -> str:
    return f"new {prompt.splitlines()[-1]}"


def test_a_paraphrase_changes_questions_and_nothing_else(writer: Writer, told: Tell) -> None:
    told(last_line)
    made = list(Paraphrase(writer=writer).build().make(ROWS))
    assert [(one.parent, one.method) for one in made] == [(n, "paraphrase") for n in (0, 2, 3, 4)]
    long, pair, labelled, task = (one.content for one in made)
    assert isinstance(long, Conversation) and isinstance(task, Task)
    assert [turn.content for turn in long.messages] == ["s", "new one", "two", "new three", "four"]
    assert pair == Preference(talk("new q", "yes"), talk("new q", "no"))
    assert labelled == Labelled(talk("new q", "yes"), wanted=False)
    assert (questions_of(task), task.answer, len(task.asked.messages)) == (["new one", "new three"], "4", 4)


def test_questions_are_asked_about_the_answer(endpoint: Endpoint, writer: Writer, told: Tell) -> None:
    told(last_line)
    task = Task(Conversation(LONG.messages[:2]), "4")
    made = [one.content for one in Questions(writer=writer).build().make([*ROWS, task, Task(task.asked)])]
    assert made[:3] == [
        talk("new a text", "a text"),
        Preference(talk("new yes", "yes"), talk("new yes", "no")),
        Labelled(talk("new yes", "yes"), wanted=False),
    ]
    assert [questions_of(content) for content in made[3:]] == [["new 4"]], "rows that ask several times stay"
    assert all(request["temperature"] == 0.8 and request["seed"] >= 0 for request in endpoint.asked)


def test_copies_are_new_and_different(endpoint: Endpoint, writer: Writer, told: Tell) -> None:
    """What says what was there before, or nothing, or what an earlier copy says, is no new row."""
    said = iter(["q", " Q1 ", "“Q1”", "", "<think>Hm.</think>Q2"])
    endpoint.reply = lambda request: next(said)
    one_by_one = writer.model_copy(update={"at_once": 1})
    made = list(Paraphrase(writer=one_by_one, copies=5).build().make([talk("q", "a")]))
    assert [questions_of(one.content) for one in made] == [["Q1"], ["Q2"]]
    assert [request["seed"] for request in endpoint.asked] == [0, 1, 2, 3, 4]
    told(last_line)
    many = [talk(f"q{n}", "a") for n in range(BATCH + 3)]
    made = list(Paraphrase(writer=writer).build().make(many))
    assert [(one.parent, questions_of(one.content)) for one in made] == [(n, [f"new q{n}"]) for n in range(BATCH + 3)]


def test_a_model_of_this_machine_draws_the_same_again(tiny: Path) -> None:
    settings: dict[str, Any] = {"writer": {"model": str(tiny), "max_new_tokens": 6}, "copies": 2}
    first, again, other = (
        [questions_of(one.content) for one in Paraphrase(**settings, seed=seed).build().make(ROWS)]
        for seed in (1, 1, 2)
    )
    assert first == again != other and first


def test_there_and_back_by_a_writer(endpoint: Endpoint, writer: Writer, told: Tell) -> None:
    told(lambda prompt: ("fr" if "into French" in prompt else "en") + prompt.splitlines()[-1])
    own = BackTranslation(by="writer", writer=writer, languages=("English", "French"))
    made = [one.content for one in own.build().make([LONG, Text("a text")])]
    assert questions_of(made[0]) == ["enfrone", "enfrthree"] and made[1] == Text("enfra text")
    told(lambda prompt: "" if "into French" in prompt else "made up")
    other = own.model_copy(update={"seed": 1})  # whose answers are not known yet
    assert list(other.build().make([LONG])) == [], "what was lost on the way is not asked for again"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "models"}, "by: models: models is missing"),
        ({"by": "writer"}, "by: writer: writer is missing"),
        ({"by": "apertium", "models": ("a", "b")}, "by: apertium: models is not used"),
        ({"by": "models", "models": ("a", "b"), "writer": "m"}, "by: models: writer is not used"),
    ],
)
def test_one_way_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BackTranslation(languages=("a", "b"), **settings)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (' "a b" ', "a b"),
        ("'it' is 'so'", "'it' is 'so'"),
        ('"', '"'),
        ("<think>\nx\n</think>\n\ny", "y"),
        ("`x`", "x"),
    ],
)
def test_quotes_and_thoughts_go(said: str, text: str) -> None:
    assert bare(said) == text


@given(st.sampled_from(ROWS), st.text(min_size=1).filter(str.strip))
def test_any_text_can_be_the_question(content: Content, text: str) -> None:
    new = [text] * len(questions_of(content))
    assert questions_of(with_questions(content, new)) == new
    assert questions_of(asked_about(content, new)) == (new if len(new) > 1 else [text])
