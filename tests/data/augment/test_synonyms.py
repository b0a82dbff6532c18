"""Words in other words: what is replaced, what never is, and the same for a seed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data.augment.facts import facts
from luthier.data.augment.synonyms import Synonyms
from luthier.data.conversation import Content, Conversation, Labelled, Message, Preference, Task, Text, conversations
from luthier.errors import DataError
from tests.data.augment.conftest import talk


def made(*rows: Content, **options: Any) -> list[Content]:
    return [one.content for one in Synonyms(**({"share": 1.0} | options)).build().make(rows)]


def said(text: str, answer: str = "Yes.", **options: Any) -> str:
    """A question in other words; itself where there are none."""
    found = made(talk(text, answer), **options)
    return found[0].messages[0].content if found else text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("Calculate it, constructing the sum.", "Compute it, building the sum."),
        ("They constructed two cities.", "They built two metropolises."),
        ("She is constructing it often and quickly.", "She is building it often and speedily."),
        ("it is used", "it is used"),
        ("He swims.", "He swims."),
        ("a huge house", "a huge house"),
        ("CITY, city-wide, city's, city(), my_city, city/town", "CITY, city-wide, city's, city(), my_city, city/town"),
        ("City life", "City life"),
        ("the City", "the City"),
        ("到达了石油厂", "到达了石油厂"),
    ],
)
def test_english(text: str, new: str) -> None:
    """The inflection is kept, and what `a` looks at; constructing is not assembling, huge not big, swim not float."""
    assert said(text) == new


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("他到达了北京。", "他抵达了北京。"),
        ("石油很贵。纠正它。", "石油很贵。纠正它。"),
        ("脸色很好", "脸色很好"),
        ("a city", "a city"),
    ],
)
def test_chinese(text: str, new: str) -> None:
    """Of one group, differing by a character that means the same."""
    assert said(text, "好。", languages=["zh"]) == new


def test_both_languages() -> None:
    assert said("city 到达 city", "好", languages=["en", "zh"]) == "metropolis 抵达 metropolis"


def test_words_of_other_turns_and_of_what_is_closed_stay() -> None:
    """An answer speaks of what was asked; options are spoken of as well."""
    assert said("Which city?", "The city is Bonn.") == "Which city?"
    assert said("Which city?", "No metropolis.") == "Which city?"
    assert said("Which city?\nA. a city\nB. none", "B") == "Which city?\nA. a city\nB. none"


def test_turns_that_change() -> None:
    assert made(talk("a city", "It will calculate.", system="in the city")) == []
    row = talk("a city", "It will calculate.", system="Be kind.")
    for of, new in (("question", ["a metropolis", "It will calculate."]), ("answer", ["a city", "It will compute."]),
                    ("both", ["a metropolis", "It will compute."])):  # fmt: skip
        assert [turn.content for turn in made(row, of=of)[0].messages] == ["Be kind.", *new]  # type: ignore[union-attr]


def test_answers_that_are_judged_never_change() -> None:
    tools = Message(
        role="assistant", content="", tool_calls=({"function": {"name": "city", "arguments": {"a": "city"}}},)
    )
    question = Message(role="user", content="Is it big, calculate it")
    better, worse = (Conversation((question, Message(role="assistant", content=f"a city {n}"))) for n in "ab")
    pair = Preference(better, worse, 0.5)
    label = Labelled(talk("calculate", "a city"), False)
    task = Task(talk("calculate a city").__class__(talk("calculate a city").messages), "city", {"prompt": "x"})
    call = Conversation((Message(role="user", content="calculate a city"), tools))
    for row in (pair, label, task, call):
        for new in made(row, of="both" if row is not call else "question"):
            assert type(new) is type(row)
            old, now = (
                [one.asked] if isinstance(one, Task) else list(conversations(one)) for one in (row, new)
            )  # fmt: skip
            for before, after in zip(old, now, strict=True):
                assert before.messages[1:] == after.messages[1:] and "compute" in after.messages[0].content
    assert made(pair)[0].margin == 0.5 and made(label)[0].wanted is False and made(task)[0].answer == "city"  # type: ignore[union-attr]
    assert "city" in made(task)[0].asked.messages[0].content and "city" in made(call)[0].messages[0].content  # type: ignore[union-attr]
    assert made(Text("a city")) == [Text("a metropolis")]


def test_the_same_for_a_seed_whatever_the_order_and_the_company() -> None:
    rows = [talk(f"Row {n}: calculate the cities quickly, they construct often.", "Yes.") for n in range(20)]
    alone = {row.content_id: made(row, share=0.3, copies=3) for row in rows}
    mixed = rows[:]
    random.Random(1).shuffle(mixed)
    together = made(*mixed, share=0.3, copies=3)
    assert together == [new for row in mixed for new in alone[row.content_id]]
    assert together != made(*mixed, share=0.3, copies=3, seed=1)
    assert all(1 < len(new) == len({one.content_id for one in new}) <= 3 for new in alone.values())


def test_words_that_were_not_fetched(words: Path) -> None:
    for language, name in (("en", "wordnet"), ("zh", "cilin")):
        next((words / "models" / name).iterdir()).unlink()
        with pytest.raises(
            DataError, match=rf"synonyms need {name}, which is not on this machine yet.*models fetch {name}"
        ):
            Synonyms(languages=[language]).build()


PIECES = st.sampled_from([
    "city", "City", "calculate", "Calculate", "often", "`city`", "```\ncity\n```", "https://city.example/city",
    "{city}", "<city>", "42", "3.5", '"a city"', "Berlin", "Calculate Berlin", ".", ". ", "\n", " ", "city's", "到达",
    "石油", "A. city", "$city$", "city@city.example", "\x00", "’", "```",
])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=12).map(" ".join), st.lists(PIECES, max_size=9).map("".join), st.text()))
def test_facts_are_never_lost(text: str) -> None:
    """Whatever is replaced: the facts of both are the same, and lines stay lines."""
    new = said(text, "", languages=["en", "zh"], of="both")
    assert facts(new) == facts(text)
    assert new.count("\n") == text.count("\n")
