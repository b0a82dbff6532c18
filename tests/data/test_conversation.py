"""Messages from loosely typed JSON: what is read, what is refused with which reason, and what makes rows equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Conversation, Message, Origin, Row, Text, conversation, message
from luthier.data.formats.base import named
from luthier.errors import RowError

ORIGIN = Origin("rows.jsonl", 7)
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
USER = {"role": "user", "content": "How are you?"}


def said(**changes: Any) -> Message:
    """One assistant message with some keys changed."""
    return message({"role": "assistant", "content": "Fine."} | changes, ORIGIN, 1)


def called(**function: Any) -> list[dict[str, Any]]:
    return [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {}} | function}]


def talk(*turns: dict[str, Any], tools: Any = None) -> Conversation:
    return conversation([message(turn, ORIGIN, i) for i, turn in enumerate(turns)], ORIGIN, tools)


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a\n b ", "a\n b "),
        (None, ""),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ({"type": "text", "text": "a"}, "a"),
        ([], ""),
    ],
)
def test_content(content: Any, text: str) -> None:
    assert said(content=content).content == text


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({}, 1.0),
        ({"weight": 0.25}, 0.25),
        ({"weight": 2}, 2.0),
        ({"weight": 0}, 0.0),
        ({"train": True}, 1.0),
        ({"train": False}, 0.0),
        ({"train": False, "weight": 3}, 0.0),
        ({"train": True, "weight": 0}, 0.0),
        ({"train": None, "weight": None}, 1.0),
    ],
)
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_train_and_weight(keys: dict[str, Any], weight: float, role: str) -> None:
    assert said(role=role, **keys).weight == weight


def test_null_is_a_key_that_is_not_there() -> None:
    """Tables exported as JSON write every column of every message."""
    keys = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "train", "weight")
    assert said(**dict.fromkeys(keys)) == said()


@pytest.mark.parametrize(
    ("keys", "reasoning"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"thinking": "hm"}, "hm"),
        ({"reasoning_content": None, "thinking": "hm"}, "hm"),
        ({"reasoning_content": "hm", "thinking": "other"}, "hm"),
    ],
)
def test_reasoning(keys: dict[str, Any], reasoning: str) -> None:
    assert said(**keys).reasoning == reasoning


@pytest.mark.parametrize("content", [None, "", "Let me look."])
def test_a_tool_call_is_an_answer(content: str | None) -> None:
    turns = talk(USER, {"role": "assistant", "content": content, "tool_calls": called()})
    assert turns.messages[1].content == (content or "")
    assert turns.messages[1].for_template()["tool_calls"] == called()


@pytest.mark.parametrize("arguments", ['{"city": "Paris", "days": [1, 2]}', {"days": [1, 2], "city": "Paris"}])
def test_arguments_become_a_mapping(arguments: Any) -> None:
    calls = said(content=None, tool_calls=called(arguments=arguments)).tool_calls
    assert calls[0]["function"]["arguments"] == {"city": "Paris", "days": [1, 2]}


@pytest.mark.parametrize("arguments", [None, {}, "{}", "null"])
def test_no_arguments_are_an_empty_mapping(arguments: Any) -> None:
    assert said(tool_calls=called(arguments=arguments)).tool_calls[0]["function"]["arguments"] == {}


def test_a_tool_turn_keeps_its_name_and_call() -> None:
    turn = message({"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"}, ORIGIN, 2)
    shown = {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"}
    assert turn.for_template() == shown


@pytest.mark.parametrize("tools", [[WEATHER], [{"type": "function", "function": WEATHER}], None, [], ""])
def test_tools_are_wrapped_as_functions(tools: Any) -> None:
    answer = {"role": "assistant", "content": "Fine."}
    expected = ({"type": "function", "function": WEATHER},) if tools else ()
    assert talk(USER, answer, tools=tools).tools == expected


def test_question_is_the_last_user_turn() -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    assert Conversation((*turns, Message(role="user", content="c"), turns[1])).question == "c"
    assert Conversation(turns[1:]).question == ""


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 3, "hi", ["assistant", "hi"]])
def test_a_message_is_a_mapping(value: Any) -> None:
    with pytest.raises(RowError, match=r"rows\.jsonl:7: message 4: expected a mapping") as caught:
        message(value, ORIGIN, 4)
    assert caught.value.reason == "bad-message"


@pytest.mark.parametrize(
    ("keys", "detail"),
    [
        *[
            ({"role": role}, "role .*; allowed: assistant, developer")
            for role in ("gpt", "", None, 1, [], {}, ["user"])
        ],
        ({"content": 5}, "content must be a string"),
        ({"content": ["a"]}, "content must be a string"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "images and audio are not read"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}]}, "images and audio are not read"),
        ({"content": [{"type": "text", "text": None}]}, "content must be a string"),
        *[({"weight": weight}, "weight must be a number") for weight in (-1, -1e-9, True, "1", [], float("nan"))],
        *[({"weight": weight}, "weight must be a number") for weight in (float("inf"), 1e300, 10**400)],
        *[({"train": train}, "train must be true or false") for train in (0, 1, "no", [])],
        *[({key: 5}, f"{key} must be a string") for key in ("tool_call_id", "name", "reasoning_content", "thinking")],
        *[({key: ["a"]}, f"{key} must be a string, got") for key in ("tool_call_id", "name")],
        ({"tool_calls": {}}, "tool_calls must be a list"),
        ({"tool_calls": "f()"}, "tool_calls must be a list"),
        *[({"tool_calls": [call]}, "needs a function name") for call in (None, 1, "f", [], {}, {"name": 5})],
        ({"tool_calls": [{"function": "f"}]}, "needs a function name"),
        ({"tool_calls": [{"id": 1, "name": "f"}]}, "id must be a string"),
        ({"tool_calls": called(arguments="{city: 1}")}, "arguments of weather are not valid JSON"),
        ({"tool_calls": called(arguments="")}, "arguments of weather are not valid JSON"),
        ({"tool_calls": called(arguments='{"a": NaN}')}, "NaN is not JSON"),
        ({"tool_calls": called(arguments='{"a": 1, "a": 2}')}, "given twice"),
        ({"tool_calls": called(arguments='{"a": "\\ud800"}')}, "lone surrogate"),
        ({"tool_calls": called(arguments='{"a": ' + "[" * 9999)}, "nested too deeply"),
        *[({"tool_calls": called(arguments=given)}, "must be a mapping") for given in (3, "[1]", [1], True, "5")],
    ],
)
def test_bad_messages(keys: dict[str, Any], detail: str) -> None:
    with pytest.raises(RowError, match=detail) as caught:
        said(**keys)
    assert caught.value.reason == "bad-message"
    assert str(caught.value).startswith("rows.jsonl:7: message 1: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "tools",
    [5, {"name": "f"}, "f", "{}", ["f"], [{}], [{"function": "f"}], [{"type": "code"}], "[" * 9999, [{"name": 1}]],
)
def test_bad_tools(tools: Any) -> None:
    with pytest.raises(RowError) as caught:
        talk(USER, {"role": "assistant", "content": "Fine."}, tools=tools)
    assert (caught.value.where, caught.value.reason) == ("rows.jsonl:7", "bad-tools")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no-assistant"),
        ([USER], "no-assistant"),
        ([USER, {"role": "tool", "content": "x"}], "no-assistant"),
        ([USER, {"role": "assistant", "content": ""}], "empty-answer"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty-answer"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "empty-answer"),
        ([USER, {"role": "assistant", "content": "", "reasoning_content": "hm"}], "empty-answer"),
        ([USER, USER | {"role": "assistant"}], "identical-pair"),
        ([USER, {"role": "assistant", "content": "Fine."}, USER, USER | {"role": "assistant"}], "identical-pair"),
    ],
)
def test_nothing_to_learn(turns: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        talk(*turns)
    assert (caught.value.where, caught.value.reason) == ("rows.jsonl:7", reason)


@pytest.mark.parametrize("content", ["", USER["content"]])
def test_what_is_not_learnt_may_be_empty_or_a_repetition(content: str) -> None:
    idle = {"role": "assistant", "content": content, "train": False}
    assert len(talk(USER, idle, USER, {"role": "assistant", "content": "Fine."}).messages) == 4


# ---- what makes rows equal ---------------------------------------------------------------------------------------


def test_content_ids_do_not_change() -> None:
    """The held-out side hangs on them: another digest would move rows of an old run from one side to the other."""
    assert talk(USER, {"role": "assistant", "content": "Fine."}).content_id == "b8f40c4589f9d669"
    assert Text("Once upon a time").content_id == "ae442d1d28734b4e"


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


def content_id(layout: str, value: Any, line: int = 1) -> str:
    return named(layout).read(Row(Origin("f.json", line), value)).content_id


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=5, max_size=5, unique=True))
def test_one_talk_in_every_layout_has_one_content_id(words: list[str]) -> None:
    system, first, answer, last, final = words
    turns = [("system", system), ("user", first), ("assistant", answer), ("user", last), ("assistant", final)]
    of = {"user": "human", "assistant": "gpt"}
    messages = [{"role": role, "content": text} for role, text in turns]
    spoken = [{"from": of.get(role, role), "value": text} for role, text in turns]
    history = [[first, answer]]
    parts = [turn | {"content": [{"type": "text", "text": turn["content"]}], "weight": 0.5} for turn in messages]
    found = {
        content_id("messages", {"messages": messages}),
        content_id("messages", {"conversations": parts, "tools": None}, line=9),
        content_id("sharegpt", {"conversations": spoken}),
        content_id("sharegpt", {"conversations": spoken[1:], "system": system}),
        content_id("alpaca", {"system": system, "history": history, "instruction": last, "output": final}),
        content_id("prompt-completion", {"system": system, "history": history, "question": last, "answer": final}),
        content_id("prompt-completion", {"prompt": messages[:-1], "completion": messages[-1:]}),
    }
    assert len(found) == 1
    assert content_id("messages", {"messages": messages[1:]}) not in found
    assert content_id("messages", {"messages": messages, "tools": [WEATHER]}) not in found


@pytest.mark.parametrize("as_text", [False, True])
def test_a_tool_call_in_every_layout_has_one_content_id(as_text: bool) -> None:
    arguments: Any = {"city": "Paris", "days": 2}
    given_ = '{"days": 2,\n "city": "Paris"}' if as_text else arguments
    call = {"type": "function", "function": {"name": "weather", "arguments": given_}}
    wrapped = [{"type": "function", "function": WEATHER}]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "rain"}]
    messages.append({"role": "assistant", "content": "It rains."})
    bare = copy.deepcopy(messages)
    bare[1] = {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": arguments}]}
    quoted = '"{\\"city\\": \\"Paris\\", \\"days\\": 2}"' if as_text else '{"city": "Paris", "days": 2}'
    spoken = [
        {"from": "human", "value": USER["content"]},
        {"from": "function_call", "value": f'{{"name": "weather", "arguments": {quoted}}}'},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ]
    tools = '[{"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}, "type": "object"}}]'
    found = {
        content_id("messages", {"messages": messages, "tools": wrapped}),
        content_id("messages", {"messages": bare, "tools": [WEATHER]}),
        content_id("sharegpt", {"conversations": spoken, "tools": tools}),
    }
    assert len(found) == 1


@given(WORDS, WORDS)
@settings(deadline=None, max_examples=60)
def test_different_words_have_different_content_ids(one: str, other: str) -> None:
    assert (Text(one).content_id == Text(other).content_id) == (one == other)
    swapped = [
        talk(USER | {"content": a}, {"role": "assistant", "content": "!" + b}) for a, b in [(one, other), (other, one)]
    ]
    assert (swapped[0].content_id == swapped[1].content_id) == (one == other)
    assert Text(one).content_id != swapped[0].content_id
