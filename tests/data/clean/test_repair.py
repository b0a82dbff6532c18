"""What programs broke is mended; what was well stays as it was, code above all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.clean.repair import Repair

MEND = Repair().build().mend


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("schÃ¶n â€“ naÃ¯ve", "schön – naïve"),
        ("ä½\u00a0å¥½ï¼Œä¸–ç•Œ", "你好，世界"),
        ("cafe\u0301", "café"),
        ("a\u200bb\ufeffc\u00add\x07e", "abcde"),
        ("<p>Hello <b>you</b> &amp; me</p>", "Hello you & me\n"),
        ("one<br/>two<br>three", "one\ntwo\nthree"),
        ("a \u00a0b\u2003c", "a b c"),
        ("a   \n\n\n\n\nb\r\nc  ", "a\n\nb\nc"),
        ("Run:\n```python\nx = 1\n", "Run:\n```python\nx = 1\n```"),
        ("~~~~\ncode\n~~~", "~~~~\ncode\n~~~\n~~~~"),
    ],
)
def test_mended(broken: str, mended: str) -> None:
    assert MEND(broken) == mended
    assert MEND(mended) == mended


@pytest.mark.parametrize(
    "text",
    [
        "Use <b> for bold.",  # a text about HTML
        "if a &lt; b",
        "می\u200cخواهم 👩\u200d💻 क्\u200dष",  # joiners with a meaning
        "“Quotes” and ﬁgures, ½ ㎢ ＡＢＣ",
        "```python\nx  =  1\u00a0# <br> &amp; &amp;\n\n\n\ny\u200b\n```",
        "`<p>` and `</p>` are `  tags  `",
        "    indented\n  - list",
        "| a  | b   |\n|----|-----|\n| 1  | 2   |",
        "C:\\x\\u0041 $a^2$ 3 > 2 && 1 < 2",
        "Portuguese: São, amanhã, NÃO, à noite",
        "",
    ],
)
def test_what_is_well_stays(text: str) -> None:
    assert MEND(text) == text


def test_only_what_is_asked_for() -> None:
    mend = Repair(only=["spaces"]).build().mend
    assert mend("cafÃ©\u200b  x  ") == "cafÃ©\u200b x"


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("`~ \n<b>&amp;x"))
def test_mending_twice_changes_nothing_more(text: str) -> None:
    once = MEND(text)
    assert MEND(MEND(once)) == MEND(once)


@settings(deadline=None, max_examples=100)
@given(st.text("ab1 <>&;=\t\u00a0\u200b", max_size=40).filter(str.strip))
def test_code_stays(code: str) -> None:
    text = f"See:\n```\n{code}\n```\nand `x  y`."
    assert MEND(text) == text


def test_rows_are_mended_and_their_names_are_not(cleaned: Any) -> None:
    value = {"messages": [{"role": "user", "content": "cafÃ©?"}, {"role": "assistant", "content": "ok"}]}
    (outcome,) = cleaned(Repair(), value, format="messages")
    assert outcome.value["messages"][0] == {"role": "user", "content": "café?"} and outcome.mended == ("repair",)
    assert outcome.content.messages[0].content == "café?" and value["messages"][0]["content"] == "cafÃ©?"


CALL = '{"name": "f", "arguments": {"x": [1, "a}]"]}}'


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (CALL[:-1], CALL),
        (CALL[:-2], CALL),
        (CALL + "}", CALL),
        (CALL + "]\n}", CALL),
        ('[{"a": 1}', '[{"a": 1}]'),
        (f"Call:\n```json\n{CALL[:-2]}\n```\nDone.", f"Call:\n```json\n{CALL}\n```\nDone."),
        (f"Call:\n```json\n{CALL[:-2]}", f"Call:\n```json\n{CALL}\n```"),
    ],
)
def test_brackets_that_json_lacks(broken: str, mended: str) -> None:
    assert MEND(broken) == mended
    assert MEND(mended) == mended


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "b',  # an open string may end anywhere
        '{"a": [1}',  # one bracket too many, or one too few
        '{"a": 1,',
        '{"a"',
        '{"a": 1} and more}',
        "[see below",
        "{ a set",
        "```\n{\n```",  # no JSON is spoken of
        "```json\n{a: [1}\n```",
        "[1]",
        "}",
    ],
)
def test_brackets_that_may_be_meant_otherwise_stay(text: str) -> None:
    assert MEND(text) == text


def test_a_call_that_cannot_be_mended_is_refused(cleaned: Any) -> None:
    def talk(call: str) -> Any:
        said = [{"from": "human", "value": "u"}, {"from": "function_call", "value": call}]
        return {"conversations": [*said, {"from": "observation", "value": "t"}, {"from": "gpt", "value": "a"}]}

    good, bad = cleaned(Repair(), talk(CALL[:-2]), talk('{"name": "f'), format="sharegpt")
    assert good.mended == ("repair",) and good.content.messages[1].tool_calls[0]["function"]["name"] == "f"
    assert bad.drop.rule == "bad-message" and "must be JSON" in bad.drop.detail


U, A, S = ({"role": role, "content": role[0]} for role in ("user", "assistant", "system"))
EMPTY = {"role": "assistant", "content": " "}
TURNS = Repair(only=["turns"]).build().mend_row


@pytest.mark.parametrize(
    ("talk", "turns"),
    [
        ([U, A, U, A], [U, A, U, A]),
        ([A, U, A], [A, U, A]),  # formats read an answer that comes first
        ([U, EMPTY, U, A], [U | {"content": "u\n\nu"}, A]),
        ([U, S, A], [S, U, A]),
        ([U, A, A], [U, A | {"content": "a\n\na"}]),
        ([U, A | {"weight": 0}, A], [U, A | {"weight": 0}, A]),  # what holds more is not touched
        ([U, U, A | {"loss": False}], [U | {"content": "u\n\nu"}, A | {"loss": False}]),
        ([U, EMPTY | {"tool_calls": []}, A], [U, EMPTY | {"tool_calls": []}, A]),
        ([U, *[{"role": "tool", "content": "t"}] * 2, A], [U, *[{"role": "tool", "content": "t"}] * 2, A]),
        ([EMPTY], [EMPTY]),
        ([], []),
        ("u", "u"),
    ],
)
def test_order_of_turns(talk: Any, turns: Any) -> None:
    assert TURNS({"messages": talk, "id": 1}) == {"messages": turns, "id": 1}
    assert TURNS(TURNS({"messages": talk})) == TURNS({"messages": talk})


def test_the_order_of_turns_makes_a_row_usable(cleaned: Any) -> None:
    value = {"conversations": [
        {"from": "human", "value": "u"}, {"from": "gpt", "value": ""}, {"from": "gpt", "value": "a"}]}  # fmt: skip
    (refused,) = cleaned(Repair(), value, format="sharegpt")
    assert refused.drop.rule == "empty-answer"  # turns are mended only where that is asked for
    (found,) = cleaned(Repair(only=["turns"]), value, format="sharegpt")
    assert [turn.content for turn in found.content.messages] == ["u", "a"] and found.mended == ("repair",)
