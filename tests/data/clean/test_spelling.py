"""Obvious misspellings are mended; code, names, numbers, addresses, quotations, calls and terms are not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.clean.spelling import Spelling
from luthier.errors import MissingExtra
from tests.data.clean.conftest import row

MEND = Spelling().build().mend_row
PIECES = ["definately", "becuase", "goverment", "The", "river", "`code x`", "3.5", "Bob", "\n", '"']
SENTENCE = "The people of the town were walking along the river in the evening, and they talked about the weather."


def answer(text: str) -> Any:
    return MEND(row("What do you remember about the town by the river?", f"{SENTENCE} {text}"))["completion"][
        len(SENTENCE) + 1 :
    ]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("They have comunication.", "They have communication."),
        ("It is definately so.", "It is definitely so."),
        ("A goverment and an enviroment.", "A government and an environment."),
        ("This is neccessary, becuase it is.", "This is necessary, because it is."),
    ],
)
def test_mended(wrong: str, right: str) -> None:
    assert answer(wrong) == right
    assert answer(right) == right


@pytest.mark.parametrize(
    "text",
    [
        "My favorite color, my favourite colour, travelling and traveling, to organise and to organize.",
        "Goverment and ENVIROMENT, DefinatelyLtd.",  # names
        "Call `definately(x)` or\n```\ndefinately = 1\n```",
        "It is ```\ndefinately = 1\n\ndefinately\n``` and Xdefinately",
        "definately(1), x.definately, definately_not, definately=2, $definately$, /usr/definately, definately.com",
        "See https://example.org/definately for more, or mail definately@example.org.",
        'She wrote "definately" and “becuase”.',
        "A definately is a definately.",  # said twice, it is a term
        "The tokenizers, embeddings, chatbots, blockchain and webpage.",
        "abcde12 and 12345 and 3rd",
        "wrok teh",  # too short to be sure
    ],
)
def test_what_stays(text: str) -> None:
    assert answer(text) == text


def test_rows_in_other_languages_stay() -> None:
    value = row("Was ist das?", "Das ist definately ein schönes Haus am Fluss, und die Leute gehen am Abend spazieren.")
    assert MEND(value) == value


def test_calls_and_their_results_stay() -> None:
    said = {"role": "assistant", "content": f"{SENTENCE} It is definately so."}
    others = [
        {"role": "tool", "content": "the result is definately there"},
        {"role": "tool_call", "content": '{"name": "f", "arguments": {"q": "is definately so"}}'},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"q": "it is becuase"}}}]},
        {"role": "assistant", "content": '{"why": "it is neccessary"}'},
        {"role": "assistant", "content": "[why: it is enviroment]"},
    ]
    found = MEND({"messages": [said, *others], "label": "is goverment"})
    assert found == {"messages": [said | {"content": f"{SENTENCE} It is definitely so."}, *others],
                     "label": "is goverment"}  # fmt: skip


def test_how_clear_it_must_be() -> None:
    careful = Spelling(min_count=10**9).build().mend_row
    value = row("Why?", f"{SENTENCE} It is definately so.")
    assert careful(value) == value and MEND(value) != value


def test_a_run_of_the_pipeline_says_that_it_mended(cleaned: Any) -> None:
    (found,) = cleaned(Spelling(), ("Why is it so?", f"{SENTENCE} It is definately so."))
    assert found.mended == ("spelling",) and found.content.messages[1].content.endswith("It is definitely so.")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12))
def test_mending_twice_changes_nothing_more(words: list[str]) -> None:
    once = MEND(row(SENTENCE, " ".join([SENTENCE, *words])))
    assert MEND(once) == once


@settings(deadline=None, max_examples=200)
@given(st.text("abcdefinlty ABC.,1_`", max_size=60))
def test_code_names_and_numbers_stay(text: str) -> None:
    """Whatever is changed is a word of small letters, and nothing beside it."""
    said = f"{SENTENCE} It is definately so. ```\n{text}\n``` and X{text.replace(' ', '')}"
    found = MEND(row(SENTENCE, said))["completion"]
    assert found == said.replace("definately", "definitely", 1) or "definately" in text


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "symspellpy", None)
    with pytest.raises(MissingExtra, match="symspellpy"):
        Spelling().build()
