"""Answers that must be JSON or a call, and functions of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.conversation import Conversation
from luthier.errors import UserError
from luthier.evaluate.checks import Json, PythonFile, ToolCalls, fenced, objects
from luthier.evaluate.question import Question

RIGHT = '{"name": "Ada", "age": 36}'


@pytest.mark.parametrize(
    ("answer", "valid", "equal"),
    [
        (RIGHT, 1, 1),
        ('```json\n{"age": 36, "name": "Ada"}\n```', 1, 1),
        ('{"name": "Bob", "age": 1, "more": []}', 1, 0),
        ('{"name": "Ada"}', 0, 0),
        ("[]", 0, 0),
        (f"Here it is: {RIGHT}", 0, 0),
        ('{"name": "Ada", "name": "Ada", "age": 36}', 0, 0),
        ("", 0, 0),
    ],
)
def test_json(answer: str, valid: int, equal: int) -> None:
    found = Json().statistics([answer], Question(Conversation(()), RIGHT))
    assert found == {"json_valid": [valid, 1], "json_equal": [equal, 1]}
    assert Json().statistics([answer], Question(Conversation(()), "a sentence, 3")) == {}


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"properties": {"city": {}, "day": {}}, "required": ["city"]},
        },
    },
)
CALLS = ({"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}},)


@pytest.mark.parametrize(
    ("answer", "valid", "equal"),
    [
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', 1, 1),
        ('{"name": "weather", "parameters": "{\\"city\\": \\"Paris\\"}"}', 1, 1),
        ('{"name": "weather", "arguments": {"city": "Rome", "day": 1}}', 1, 0),
        ('{"name": "weather", "arguments": {"day": 1}}', 0, 0),
        ('{"name": "weather", "arguments": {"city": "Paris", "hour": 1}}', 0, 0),
        ('{"name": "wether", "arguments": {"city": "Paris"}}', 0, 0),
        ('{"name": "weather", "arguments": ["Paris"]}', 0, 0),
        ("It rains in Paris {maybe}.", 0, 0),
        ("", 0, 0),
    ],
)
def test_calls(answer: str, valid: int, equal: int) -> None:
    asked = Question(Conversation((), TOOLS), "", CALLS)
    assert ToolCalls().statistics([answer], asked) == {"call_valid": [valid, 1], "call_equal": [equal, 1]}
    assert ToolCalls().statistics([answer], Question(Conversation((), TOOLS), "words")) == {}


@given(st.text(max_size=60))
def test_any_answer_is_looked_at(answer: str) -> None:
    """No text is too strange, and every object that stands in it is found."""
    list(objects(answer)), fenced(answer)
    free = answer.replace("{", "").replace('"', "")
    assert list(objects(f"{free}{json.dumps({'a': {'b': answer}})}{free}")) == [{"a": {"b": answer}}]


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def short(answer, reference, row):\n    return len(answer) <= row['most']\n"
        "def score(answer, reference, row):\n    return 'much'\n"
    )
    asked = Question(Conversation(()), "x", fields={"most": 3})
    metric = PythonFile(path=str(file), function="short")
    assert metric.statistics(["abc", "abcd"], asked) == {"short": [0.5, 1]}
    with pytest.raises(UserError, match="score returned 'much', not a number"):
        PythonFile(path=str(file)).statistics(["a"], asked)
    with pytest.raises(UserError, match="has no function 'gone'"):
        PythonFile(path=str(file), function="gone").statistics(["a"], asked)
    with pytest.raises(UserError, match="no such file"):
        PythonFile(path=str(tmp_path / "no.py")).statistics(["a"], asked)
