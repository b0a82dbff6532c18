"""Layouts: recognised without configuration, refused when two would fit, and bad rows named with a stable reason."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import (
    Choices,
    Content,
    Conversation,
    Labelled,
    Message,
    Origin,
    Preference,
    Row,
    Task,
    Text,
)
from luthier.data.formats.base import judged, named, recognise
from luthier.data.formats.base import read as read_row
from luthier.errors import AmbiguousFormat, DataError, RowError
from luthier.plugins import UnknownPart, names

SYSTEM, ASKED, SAID = (Message(role=role, content=role[0]) for role in ("system", "user", "assistant"))
U, A = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLING = Message(role="assistant", tool_calls=(CALL,))
RESULT = Message(role="tool", content="t")


def rows(*values: Any) -> list[Row]:
    return [Row(Origin("rows.json", line), value) for line, value in enumerate(values, 1)]


def read(name: str, value: Any) -> Content:
    return named(name).read(Row(Origin("rows.json", 3), value))


def called(arguments: Any) -> dict[str, Any]:
    call = {"name": "f", "arguments": arguments}
    return {"messages": [U, {"role": "assistant", "content": None, "tool_calls": [call]}]}


# ---- what is recognised, and what it says ------------------------------------------------------------------------

TALK, ELSE = Conversation((ASKED, SAID)), Message(role="assistant", content="b")
OTHER = Conversation((ASKED, ELSE))
READ: list[tuple[str, Any, Content]] = [
    ("messages", {"messages": [U, A]}, TALK),
    ("messages", {"conversations": [U, A], "id": 5}, TALK),
    ("messages", {"conversation": [U, A], "messages": None, "tools": None}, TALK),
    ("messages", {"messages": [U, A], "tools": [TOOL]}, Conversation((ASKED, SAID), (TOOL,))),
    ("messages", called({"x": 1}), Conversation((ASKED, CALLING))),
    ("messages", called('{"x": 1}'), Conversation((ASKED, CALLING))),
    ("messages", {"messages": [U, A | {"content": [{"type": "text", "text": "a"}]}]}, TALK),
    ("messages", {"messages": [U, A | {"train": False}, U, A | {"weight": 0.5}]},
     Conversation((ASKED, Message(role="assistant", content="a", weight=0), ASKED,
                   Message(role="assistant", content="a", weight=0.5)))),
    ("sharegpt", {"conversations": [HUMAN, GPT]}, TALK),
    ("sharegpt", {"conversation": [HUMAN | {"from": "user"}, GPT | {"from": "model"}]}, TALK),
    ("sharegpt", {"conversations": [HUMAN, GPT], "system": "s"}, Conversation((SYSTEM, ASKED, SAID))),
    ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "system": ""},
     Conversation((SYSTEM, ASKED, SAID))),
    ("sharegpt", {"conversations": [HUMAN, GPT | {"weight": 0}, HUMAN, GPT | {"train": False}]},
     Conversation((ASKED, Message(role="assistant", content="a", weight=0)) * 2)),
    ("sharegpt", {"tools": json.dumps([TOOL["function"]]), "conversations": [
        HUMAN, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "t"}, GPT]}, Conversation((ASKED, CALLING, RESULT, SAID), (TOOL,))),
    ("sharegpt", {"conversations": [HUMAN, {"from": "function_call", "value": json.dumps([CALL, CALL])}]},
     Conversation((ASKED, Message(role="assistant", tool_calls=(CALL, CALL))))),
    ("alpaca", {"instruction": "u", "output": "a"}, TALK),
    ("alpaca", {"instruction": "u", "input": "", "output": "a", "system": None, "history": None}, TALK),
    ("alpaca", {"instruction": "", "input": "u", "output": "a"}, TALK),
    ("alpaca", {"instruction": "Add.", "input": "1 2", "output": "a"},
     Conversation((Message(role="user", content="Add.\n1 2"), SAID))),
    ("alpaca", {"instruction": "u", "output": "a", "system": "s", "history": [["u", "a"]]},
     Conversation((SYSTEM, ASKED, SAID, ASKED, SAID))),
    *[("prompt-completion", {prompt: "u", answer: "a"}, TALK) for prompt, answer in [
        ("prompt", "completion"), ("prompt", "response"), ("query", "response"), ("question", "answer")]],
    ("prompt-completion", {"prompt": [U], "completion": [A]}, TALK),
    ("prompt-completion", {"prompt": [U, A, U], "completion": "a"},
        Conversation((ASKED, replace(SAID, weight=0.0), ASKED, SAID))),
    ("prompt-completion", {"prompt": "u", "completion": "a", "system": "s", "history": [["u", "a"]]},
     Conversation((SYSTEM, ASKED, SAID, ASKED, SAID))),
    *[("preference", value, Preference(TALK, OTHER)) for value in (
        {"prompt": "u", "chosen": "a", "rejected": "b"},
        {"prompt": [U], "chosen": [A], "rejected": [A | {"content": "b"}]},
        {"chosen": [U, A], "rejected": [U, A | {"content": "b"}]},
        {"messages": [U], "chosen": A, "rejected": A | {"content": "b"}},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT | {"value": "b"}},
        {"instruction": "u", "input": "", "chosen": "a", "rejected": "b"},
        {"question": "u", "chosen": "a", "rejected": "b", "score": 3})],
    ("preference", {"prompt": "u", "chosen": "a", "rejected": "b", "margin": 2}, Preference(TALK, OTHER, 2.0)),
    ("preference", {"prompt": [U, A, U], "chosen": "a", "rejected": "b", "system": "s"},
     Preference(*(Conversation((SYSTEM, ASKED, replace(SAID, weight=0.0), ASKED, m)) for m in (SAID, ELSE)))),
    *[("labelled", value, Labelled(TALK, wanted=True)) for value in (
        {"prompt": "u", "completion": "a", "label": True}, {"messages": [U, A], "label": True},
        {"conversations": [HUMAN, GPT], "label": True}, {"instruction": "u", "output": "a", "label": True})],
    ("labelled", {"messages": [U, A, U, A], "label": False},
     Labelled(Conversation((ASKED, replace(SAID, weight=0.0), ASKED, SAID)), wanted=False)),
    *[("prompt", value, Task(Conversation((ASKED,)), answer)) for value, answer in (
        ({"prompt": "u"}, None), ({"prompt": [U]}, None), ({"prompt": "u", "answer": "a", "level": 3}, "a"),
        ({"prompt": "u", "solution": 42}, "42"), ({"prompt": "u", "ground_truth": "a"}, "a"))],
    ("prompt", {"prompt": "u", "system": "s"}, Task(Conversation((SYSTEM, ASKED)))),
    ("messages", {"messages": json.dumps([U, A])}, TALK),  # a cell of a table
    ("sharegpt", {"conversations": json.dumps([HUMAN, GPT])}, TALK),
    ("alpaca", {"instruction": "u", "context": "x", "response": "a", "category": "c"},
     Conversation((Message(role="user", content="u\nx"), SAID))),
    ("prompt-completion", {"input": [U], "ideal": "a"}, TALK),
    ("turns", ["u", "a"], TALK),
    ("turns", ["u", "a", "u"], Conversation((ASKED, SAID, ASKED))),
    *[("parallel", value, Conversation((Message(role="user", content=asked), SAID))) for value, asked in (
        ({"source": "x", "target": "a", "source_lang": "en", "target_lang": "de_AT"},
         "Translate from English to German (AT):\nx"),
        ({"source": "x", "target": "a"}, "Translate:\nx"),
        ({"translation": {"en": "x", "zh-Hans": "a"}}, "Translate from English to Chinese (Hans):\nx"),
        ({"fr": "x", "en": "a", "id": "7"}, "Translate from French to English:\nx"))],
    *[("choice", {"question": "u", **value}, Choices((
        Message(role="user", content="u\nA. x\nB. y\nC. z"), Message(role="assistant", content="B")), (), "u",
        ("x", "y", "z"), 1)) for value in (
        {"choices": ["x", "y", "z"], "answer": 1}, {"choices": ["x", "y", "z"], "answer": "y"},
        {"options": {"A": "x", "B": "y", "C": "z"}, "answer_idx": "B", "answer": "y"},
        {"choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"options": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}, {"label": "C", "text": "z"}],
         "answer": "(b)"},
        {"A": "x", "B": "y", "C": "z", "answer": "B"}, {"opa": "x", "opb": "y", "opc": "z", "cop": 2, "exp": "e"},
        {"choices": '["x", "y", "z"]', "answer": "1"})],
    ("choice", {"question": "u", "choices": ["1", "2", "0"], "answer": 1}, Choices((  # counted, though one says 1
        Message(role="user", content="u\nA. 1\nB. 2\nC. 0"), Message(role="assistant", content="B")), (), "u",
        ("1", "2", "0"), 1)),
    ("text", {"text": " once\n"}, Text(" once\n")),
    ("text", {"text": "once", "id": 3}, Text("once")),
    ("text", "once", Text("once")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "content"), READ)
def test_recognised_and_read(name: str, value: Any, content: Content) -> None:
    assert recognise(rows(value), "rows.json") == name
    assert read(name, value) == content


@pytest.mark.parametrize("name", names("format"))
def test_every_layout_is_among_the_examples(name: str) -> None:
    assert name in {one for one, _, _ in READ}
    assert named(name).evidence


@pytest.mark.parametrize("key", ["images", "image", "videos", "audios"])
def test_rows_with_more_than_text_are_refused(key: str) -> None:
    """They would be learnt as if there were none."""
    value = {"messages": [U, A], key: ["a.png"]}
    with pytest.raises(RowError, match=f"has {key}, and only text is read"):
        read_row("messages", Row(Origin("rows.json", 3), value))
    assert read_row("messages", Row(Origin("rows.json", 3), value | {key: []})) == TALK


def test_a_few_bad_rows_do_not_hide_the_layout() -> None:
    good = {"messages": [U, A]}
    assert recognise(rows({"messages": []}, *[good] * 9, 5, None, {"instruction": "u"}), "rows.json") == "messages"
    assert recognise(rows(*[good] * 19, {"text": "x"}), "rows.json") == "messages"


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "readings"),
    [
        ([{"instruction": "u", "output": "a", "text": "u a"}], ["as alpaca: Conv", "as text: Text(text='u a')"]),
        ([{"prompt": "u", "completion": "a", "instruction": "x", "output": "y"}], ["as alpaca:", "as prompt-comp"]),
        ([{"conversations": [U | HUMAN, A | GPT]}], ["as messages: Conv", "as sharegpt: Conv"]),
        ([3, {"text": "u", "question": "u", "answer": "a"}], ["example rows.json:2", "as text:", "as prompt-comp"]),
    ],
)
@pytest.mark.parametrize("file", ["rows.json", "C:\\my data\\{a}, b: #1.json"])
def test_two_layouts_are_refused_with_both_readings(values: list[Any], readings: list[str], file: str) -> None:
    with pytest.raises(AmbiguousFormat) as caught:
        recognise(rows(*values), file)
    message = str(caught.value)
    assert all(reading in message for reading in readings)
    source = yaml.safe_load(message.splitlines()[-1])["data"]["train"][0]  # the line can be copied into a config
    assert source["path"] == file
    assert f"as {source['format']}:" in message


def test_rows_of_several_layouts_belong_in_several_files() -> None:
    """No name in the config would read them all, so none is advised."""
    values = [{"messages": [U, A]}, {"instruction": "u", "output": "a"}] * 3
    with pytest.raises(DataError, match=r"several layouts \(line 1 is messages, line 2 is alpaca\); put") as caught:
        recognise(rows(*values), "rows.json")
    assert not isinstance(caught.value, AmbiguousFormat)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([{"a": 1}, {"b": 2, "a": 3}], "rows with the keys a, b"),
        ([{f"id{i:03}": 1 for i in range(500)}], "id019 and 480 more"),
        ([3, 4], "rows of type int"),
        ([None], "rows of type NoneType"),
        ([[U, A]], "rows of type list"),
        ([{}], "rows of type dict"),
        ([{"messages": []}], "rows with the keys messages"),
        ([{"text": None}], "rows with the keys text"),
        ([{"prompt": "u", "chosen": 1, "rejected": "b"}], "rows with the keys chosen, prompt, rejected"),
        ([{"messages": [U, A]}, *[{"a": 1}] * 3], "rows with the keys a, messages"),
    ],
)
def test_unknown_layouts_are_told_what_is_recognised(values: list[Any], what: str) -> None:
    with pytest.raises(DataError, match="no format reads these rows") as caught:
        recognise(rows(*values), "rows.json")
    message = str(caught.value)
    assert message.startswith("rows.json: ") and what in message and len(message) < 1500
    for name in names("format"):
        assert f"\n  {name}: {named(name).evidence}" in message


@pytest.mark.parametrize(
    ("name", "value", "content"), [one for one in READ if one[0] not in ("text", "preference", "labelled", "turns")]
)
def test_rows_with_preferences_are_read_only_where_the_format_is_named(name: str, value: Any, content: Content) -> None:
    value = value | {"chosen": "a", "rejected": "b"}
    assert [one for one in names("format") if named(one).recognises(value)] == ["preference"]
    assert read(name, value) == content


def test_no_such_format() -> None:
    with pytest.raises(
        UnknownPart,
        match=r"unknown format 'alpacca'; did you mean 'alpaca'\? allowed: alpaca, choice, labelled, messages",
    ):
        named("alpacca")


def turn(**changes: Any) -> dict[str, Any]:
    return {"messages": [U, A | changes]}


def gpt(**changes: Any) -> dict[str, Any]:
    return {"conversations": [HUMAN, GPT | changes]}


CALLED = {"from": "function_call"}
IMAGE = [{"type": "image_url", "image_url": {"url": "x.png"}}]
BAD: list[tuple[str, str, Any]] = [
    *[("messages", "wrong-layout", value) for value in (
        None, 3, "u", [], [U, A], {}, {"messages": []}, {"messages": None}, {"messages": {}}, {"messages": [U, "a"]},
        {"messages": [U, GPT]}, {"prompt": "u", "completion": "a"})],
    *[("messages", "bad-message", turn(role=role)) for role in ("gpt", None, 5, ["assistant"], {})],
    *[("messages", "bad-message", turn(content=content)) for content in (5, True, {"a": 1}, ["a"], IMAGE, [None])],
    *[("messages", "bad-message", turn(weight=w)) for w in (-1, True, "1", math.nan, math.inf, -math.inf, 10**400)],
    *[("messages", "bad-message", turn(train=train)) for train in (1, "yes")],
    *[("messages", "bad-message", called(bad)) for bad in ("{", "", '{"a": NaN}', '{"a": 1, "a": 1}', "[]", 5)],
    ("messages", "bad-message", turn(name=5)),
    ("messages", "bad-message", turn(tool_call_id={})),
    ("messages", "bad-message", {"messages": [U | {"weight": -1}, A]}),
    ("messages", "no-assistant", {"messages": [U]}),
    ("messages", "empty-answer", turn(content=None)),
    ("messages", "empty-answer", turn(content=" ")),
    ("messages", "empty-answer", turn(content=[])),
    ("messages", "identical-pair", turn(content="u")),
    *[("messages", "bad-tools", turn() | {"tools": tools}) for tools in ("[", {"name": "f"}, [5], [{"x": 1}], 7)],
    *[("sharegpt", "wrong-layout", value) for value in (
        None, "u", {}, {"conversations": []}, {"conversations": [U, A]}, {"conversations": [HUMAN, {"from": "gpt"}]})],
    *[("sharegpt", "bad-message", gpt(**{"from": who})) for who in ("bot", None, ["gpt"], {}, 5)],
    *[("sharegpt", "bad-message", gpt(value=value)) for value in (None, 5, ["a"], {})],
    *[("sharegpt", "bad-message", gpt(weight=weight)) for weight in (-1, True, "1", math.nan, math.inf, 10**400)],
    ("sharegpt", "bad-message", gpt(train="no")),
    *[("sharegpt", "bad-message", gpt(value=value, **CALLED)) for value in (
        "f(1)", '{"name": "f"', "5", '"f"', "[5]", '{"arguments": {}}', '{"name": 5, "arguments": {}}',
        '{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": "{"}', '{"name": "f", "arguments": {"a": NaN}}',
    )],
    ("sharegpt", "bad-message", gpt() | {"system": 5}),
    ("sharegpt", "no-assistant", {"conversations": [HUMAN]}),
    ("sharegpt", "empty-answer", gpt(value="")),
    ("sharegpt", "empty-answer", gpt(value="[]", **CALLED)),
    ("sharegpt", "identical-pair", gpt(value="u")),
    ("sharegpt", "bad-tools", gpt() | {"tools": "{"}),
    *[("alpaca", "wrong-layout", value) for value in (None, "u", {"instruction": "u"}, {"output": "a"}, [U, A])],
    *[("alpaca", "bad-message", {"instruction": "u", "output": "a"} | wrong) for wrong in (
        {"instruction": 5}, {"output": 0}, {"output": False}, {"output": ["a"]}, {"input": []}, {"system": {}})],
    *[("alpaca", "bad-message", {"instruction": "u", "output": "a", "history": bad}) for bad in (
        5, True, 0, "ab", {"u": "a"}, ["u", "a"], [["u"]], [["u", None]], [["u", "a", "b"]])],
    ("alpaca", "empty-question", {"instruction": " ", "input": None, "output": "a"}),
    ("alpaca", "empty-answer", {"instruction": "u", "output": None}),
    ("alpaca", "empty-answer", {"instruction": "u", "output": "a", "history": [["u", ""]]}),
    ("alpaca", "identical-pair", {"instruction": "u", "output": "u"}),
    ("alpaca", "bad-tools", {"instruction": "u", "output": "a", "tools": 5}),
    *[("prompt-completion", "wrong-layout", value) for value in (
        None, "u", {"prompt": "u"}, {"question": "u", "response": "a"})],
    *[("prompt-completion", "bad-message", {"prompt": "u", "completion": bad}) for bad in (
        None, 5, True, A, ["a"], [GPT])],
    ("prompt-completion", "bad-message", {"prompt": None, "completion": "a"}),
    ("prompt-completion", "bad-message", {"prompt": "u", "completion": "a", "system": 5}),
    ("prompt-completion", "bad-message", {"prompt": "u", "completion": "a", "history": 5}),
    *[("prompt", "empty-question", {"prompt": empty}) for empty in ("", " \n", [], [U, A])],
    ("prompt", "bad-message", {"prompt": "u", "answer": ["a"]}),
    *[("prompt-completion", "empty-question", {"prompt": empty, "completion": "a"}) for empty in ("", " \n", [])],
    *[("prompt-completion", "no-assistant", {"prompt": [U, A, U], "completion": none}) for none in ([], [U])],
    ("prompt-completion", "empty-answer", {"question": "u", "answer": ""}),
    ("prompt-completion", "identical-pair", {"query": "u", "response": "u"}),
    *[("preference", "wrong-layout", {"prompt": "u", "chosen": bad, "rejected": "b"}) for bad in (None, 1, True)],
    ("preference", "identical-pair", {"prompt": "u", "chosen": "a", "rejected": "a"}),
    ("preference", "empty-question", {"chosen": "a", "rejected": "b"}),
    ("preference", "empty-question", {"prompt": "", "chosen": [A], "rejected": [A | {"content": "b"}]}),
    ("preference", "empty-answer", {"prompt": "u", "chosen": "a", "rejected": " "}),
    ("preference", "no-assistant", {"prompt": "u", "chosen": [U], "rejected": [A]}),
    *[("preference", "bad-message", {"prompt": "u", "chosen": "a", "rejected": "b", "margin": bad})
      for bad in ("2", True, math.nan)],
    ("labelled", "no-assistant", {"messages": [U], "label": True}),
    ("labelled", "no-assistant", {"prompt": "u", "label": True}),
    ("labelled", "wrong-layout", {"messages": [U, A], "label": 1}),
    *[("text", "wrong-layout", value) for value in (None, 5, ["u"], {"text": None}, {"text": ["u"]}, {"content": "u"})],
    ("text", "empty-text", {"text": " \n"}),
    ("text", "empty-text", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reason", "value"), BAD)
def test_bad_rows(name: str, reason: str, value: Any) -> None:
    with pytest.raises(RowError) as caught:
        read(name, value)
    error = caught.value
    assert (error.where, error.reason) == ("rows.json:3", reason)
    assert str(error) == f"rows.json:3: {error.detail}" and 10 < len(error.detail) < 300


def test_the_place_of_a_bad_turn_is_named() -> None:
    with pytest.raises(RowError, match=r"rows\.json:3: message 2: role 'bot'"):
        read("messages", {"messages": [U, A, U | {"role": "bot"}]})
    with pytest.raises(RowError, match=r"rows\.json:3: message 2: from 'bot'"):
        read("sharegpt", {"conversations": [HUMAN, GPT, HUMAN | {"from": "bot"}]})


# ---- fuzz --------------------------------------------------------------------------------------------------------

ROW_KEYS = ["messages", "conversations", "system", "tools", "instruction", "input", "output", "history", "prompt"]
ROW_KEYS += ["completion", "query", "response", "question", "answer", "text", "chosen"]
ROW_KEYS += ["rejected", "rejected_response", "rejected_messages", "solution", "problem", "label"]
TURN_KEYS = ["role", "content", "from", "value", "weight", "train", "tool_calls", "function", "name", "arguments", "id"]
TURN_KEYS += ["tool_call_id", "reasoning_content", "thinking", "type", "text", "loss", "loss_scale", "training"]
WORDS = [
    "user",
    "assistant",
    "human",
    "gpt",
    "tool",
    "function_call",
    "tool_call",
    "text",
    "{}",
    '[{"name": "f"}]',
    "[[",
]
KEYS = st.sampled_from(ROW_KEYS + TURN_KEYS)
ANY_KEY = KEYS | KEYS | st.integers() | st.none() | st.tuples(st.booleans()) | st.text(max_size=2)
LEAVES = st.sampled_from(WORDS) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=4), max_leaves=12
)
ODD_TURN = st.dictionaries(KEYS, ANYTHING, max_size=3)
GOOD_TURN = st.sampled_from([U, A, HUMAN, GPT, CALLED | {"value": "{}"}])
TURNS = st.lists(st.builds(lambda good, odd: good | odd, GOOD_TURN, ODD_TURN) | ANYTHING, max_size=4)
GOOD_ROW = st.sampled_from([value for _, value, _ in READ if isinstance(value, dict)])
ODD_ROW = st.builds(lambda good, odd: good | odd, GOOD_ROW, st.dictionaries(ANY_KEY, ANYTHING | TURNS, max_size=2))


@settings(deadline=None, max_examples=300)
@given(ANYTHING | ODD_ROW | st.builds(lambda key, turns: {key: turns}, KEYS, TURNS))
def test_whatever_the_row_only_row_errors(value: Any) -> None:
    found = {}
    for name in names("format"):
        recognised = named(name).recognises(value)
        assert isinstance(recognised, bool)
        try:
            found[name] = read(name, value)
        except RowError as error:
            assert error.where == "rows.json:3" and error.reason and error.detail
        more = isinstance(value, dict) and (judged(value) or named("choice").recognises(value) or name == "parallel")
        assert recognised or name not in found or more  # a name in the config decides
    for content in found.values():
        if isinstance(content, Conversation):
            assert any(message.role == "assistant" for message in content.messages)
            assert all(0 <= message.weight < math.inf for message in content.messages)
            assert all(isinstance(message.content, str) for message in content.messages)
    try:
        assert recognise(rows(value), "rows.json") in names("format")
    except DataError as error:
        assert len(str(error)) < 10_000
