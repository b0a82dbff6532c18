"""Rows as Axolotl and ms-swift have them: read as those tools mean them, or refused by what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from luthier.data.conversation import Content, Conversation, Labelled, Message, Preference, Task
from luthier.data.formats.base import read, recognise
from luthier.errors import DataError, RowError
from tests.data.test_formats import ASKED, CALL, CALLING, OTHER, RESULT, SAID, SYSTEM, TALK, TOOL, A, U, rows

B = A | {"content": "b"}
UNLEARNT = replace(SAID, weight=0.0)
PAIR = Preference(TALK, OTHER)
CALLED = {"role": "tool_call", "content": json.dumps(CALL["function"])}

AXOLOTL: list[tuple[str, Any, Content]] = [
    ("alpaca", {"instruction": "u", "input": "", "output": "a", "system": "s"}, Conversation((SYSTEM, ASKED, SAID))),
    ("messages", {"messages": [U, A | {"training": False}, U, A]}, Conversation((ASKED, UNLEARNT, ASKED, SAID))),
    ("prompt-completion", {"prompt": "u", "generation": "a"}, TALK),  # metharme
    ("prompt-completion", {"article": "u", "summary": "a"}, TALK),  # summarizetldr
    *[("preference", value, PAIR) for value in (
        {"messages": [U], "chosen": A, "rejected": B},  # chat_template.default
        {"chosen": [U, A], "rejected": [U, B]},  # chat_template.argilla
        {"prompt": "u", "chosen": [U, A], "rejected": [U, B]},  # chatml.ultra: the question stands twice
        {"instruction": "u", "chosen_response": "a", "rejected_response": "b"},  # chatml.argilla
        {"input": "u", "chosen": "a", "rejected": "b"})],  # chatml.icr
    ("preference", {"system": "s", "prompt": "u", "chosen": [U, A], "rejected": [U, B]},
     Preference(*(Conversation((SYSTEM, *talk.messages)) for talk in (TALK, OTHER)))),
    ("labelled", {"prompt": "u", "completion": [U, A], "label": True}, Labelled(TALK, wanted=True)),
]  # fmt: skip

SWIFT: list[tuple[str, Any, Content]] = [
    ("messages", {"system": "s", "messages": [U, A]}, Conversation((SYSTEM, ASKED, SAID))),
    ("messages", {"messages": [U, A | {"loss": False}, U, A | {"loss": True}]},
     Conversation((ASKED, UNLEARNT, ASKED, SAID))),
    ("messages", {"messages": [U, A | {"loss_scale": 0.5}]}, Conversation((ASKED, replace(SAID, weight=0.5)))),
    ("messages", {"tools": json.dumps([TOOL]), "messages": [
        U, CALLED, CALLED, {"role": "tool_response", "content": "t"}, {"role": "tool", "content": "t"}, A]},
     Conversation((ASKED, replace(CALLING, tool_calls=(CALL, CALL)), RESULT, RESULT, SAID), (TOOL,))),
    ("messages", {"messages": [U, A, CALLED]}, Conversation((ASKED, replace(SAID, tool_calls=(CALL,))))),
    ("sharegpt", {"system": "s", "conversation": [{"human": "u", "assistant": "a"}] * 2},
     Conversation((SYSTEM, ASKED, SAID, ASKED, SAID))),
    ("prompt-completion", {"query": "u", "response": "a", "history": '[["u", "a"]]'},
     Conversation((ASKED, SAID, ASKED, SAID))),
    *[("preference", value, PAIR) for value in (
        {"messages": [U, A], "rejected_response": "b"}, {"messages": [U, A], "rejected_messages": [U, B]},
        {"messages": json.dumps([U, A]), "rejected_response": [B]},
        {"query": "u", "response": "a", "rejected_response": "b"})],
    ("labelled", {"query": "u", "response": "a", "label": False}, Labelled(TALK, wanted=False)),
    *[("prompt", value, Task(Conversation((ASKED,)), "42")) for value in (
        {"messages": [U], "solution": "42"}, {"query": "u", "solution": 42}, {"problem": "u", "solution": "42"},
        {"messages": json.dumps([U]), "solution": "42"})],
    ("messages", {"messages": [U, A], "solution": "42"}, TALK),
]  # fmt: skip


PART, OTHERS = ([{"type": "text", "value": said}] for said in "ab")
LLAMA_FACTORY: list[tuple[str, Any, Content]] = [
    ("messages", {"messages": [U, A | {"content": PART, "loss_weight": 1.0}]}, TALK),
    ("preference", {"chosen_messages": [U, A | {"content": PART}], "rejected_messages": [U, A | {"content": OTHERS}]},
     PAIR),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "content"), AXOLOTL + SWIFT + LLAMA_FACTORY)
def test_recognised_and_read(name: str, value: Any, content: Content) -> None:
    given = rows(value)
    assert recognise(given, "rows.json") == name
    assert read(name, given[0]) == content


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"segments": [{"label": True, "text": "<s>u"}]}, "segments cannot be read: .*; write messages, with train"),
        ({"prompt": "u", "completions": ["a", "b"], "labels": [True, False]}, "completions and labels cannot be read"),
        ({"messages": [U], "positive_messages": [[A]]}, "positive_messages cannot be read: what an embedding"),
    ],
)
def test_layouts_that_are_known_and_not_read(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.json: rows with {said}"):
        recognise(rows(value), "rows.json")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"messages": [U, A], "images": ["a.png"]}, "has images, and only text is read"),
        ({"messages": [U, A | {"loss": 1}]}, "message 1: loss must be true or false, got 1"),
        ({"messages": [U, A | {"loss_scale": -1}]}, "message 1: loss_scale must be a number from 0"),
        ({"messages": [U, CALLED | {"content": "f(1)"}]}, "message 1: a function_call must be JSON"),
        ({"messages": [U, A | {"training_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}]},
         "message 1: a part of a message cannot be learnt alone; write it as messages"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used(value: Any, said: str) -> None:
    with pytest.raises(RowError, match=said):
        read("messages", rows(value)[0])


def test_turns_that_only_begin_alike_are_no_repetition() -> None:
    """An answer that goes on with another question is all that is learnt; the prompt before it stays."""
    more = {"role": "user", "content": "more?"}
    found = read("preference", rows({"prompt": [U, A], "chosen": [more, A], "rejected": [more, B]})[0])
    assert isinstance(found, Preference)
    asked = Message(role="user", content="more?")
    assert found.chosen.messages == (ASKED, UNLEARNT, asked, SAID)
