"""Answers that must be JSON or a call, and functions of the user's own."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.conversation import Conversation
from luthier.errors import UserError
from luthier.evaluate.checks import Json, Passes, PythonFile, ToolCalls, fenced, objects, pass_at
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
    (tmp_path / "text.txt").write_text(file.read_text())
    for name in ("no.py", "text.txt"):
        with pytest.raises(UserError, match=r"no such \.py file"):
            PythonFile(path=str(tmp_path / name)).statistics(["a"], asked)


HUMANEVAL = {
    "prompt": "def twice(n):\n    '''Double.'''\n", "entry_point": "twice",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}  # fmt: skip
MBPP = {"text": "Double.", "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"]}
SOCKET = "import socket\ndef twice(n):\n    socket.create_connection(('127.0.0.1', PORT), 2)\n    return 2 * n"


def passed(answers: list[str], row: dict[str, object], **limits: int) -> dict[str, list[float]]:
    return Passes(**limits).statistics(answers, Question(Conversation(()), "", fields=row))  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [HUMANEVAL, MBPP], ids=["HumanEval", "MBPP"])
@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("def twice(n):\n    return 2 * n", 1),
        ("Here:\n```python\ndef twice(n):\n    return n + n\n```\nThat is it.", 1),
        ("def twice(n):\n    return 3 * n", 0),
        ("def twice(n: return", 0),
        ("import sys\nsys.exit(0)", 0),
        ("import os\nos._exit(0)", 0),
        ("import os\nos.write(1, b'0' * 32)\nos._exit(0)", 0),
        ("while True: pass", 0),
        ("x = bytes(2**30)\ndef twice(n):\n    return 2 * n", 0),
        ("open('x', 'wb').write(bytes(2**21))\ndef twice(n):\n    return 2 * n", 0),
        ("import os\ndef twice(n):\n    return 2 * n if not os.listdir() and not os.environ.get('HOME') else 0", 1),
    ],
)
def test_programs(row: dict[str, object], answer: str, right: int) -> None:
    assert passed([answer], row, seconds=2, megabytes=512) == {"pass@1": [right, 1]}


def test_an_answer_that_goes_on_with_the_function() -> None:
    assert passed(["    return 2 * n\n"], HUMANEVAL) == {"pass@1": [1, 1]}


def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    file = f"pathlib.Path({str(started)!r})"
    later = f"import pathlib, time; {file}.touch(); time.sleep(3); {file}.unlink()"
    answer = f"""import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {later!r}], stdin=subprocess.DEVNULL)
while not pathlib.Path({str(started)!r}).exists():
    time.sleep(0.01)
def twice(n):
    return 2 * n"""
    assert passed([answer], MBPP, seconds=20) == {"pass@1": [1, 1]}
    time.sleep(4)
    assert started.exists(), "it went on"


def test_a_program_reaches_no_other(tmp_path: Path) -> None:
    """Where the system lets a process give up its network."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        answer = SOCKET.replace("PORT", str(canary.getsockname()[1]))
        found = passed([answer], MBPP)
        canary.settimeout(0.1)
        if found == {"pass@1": [0, 1]}:
            with pytest.raises(TimeoutError):
                canary.accept()
        else:
            assert subprocess.run(["unshare", "-rn", "true"], check=False).returncode != 0


def test_pass_at_k() -> None:
    """Equal to drawing all subsets."""
    for count, right, k in [(5, 2, 1), (5, 2, 2), (6, 1, 4), (4, 4, 3), (4, 0, 2), (3, 2, 2)]:
        drawn = list(combinations([True] * right + [False] * (count - right), k))
        assert pass_at(k, count, right) == pytest.approx(sum(map(any, drawn)) / len(drawn))
    good, bad = "def twice(n):\n    return 2 * n", "def twice(n):\n    return 0"
    assert passed([good, bad, bad], HUMANEVAL) == {"pass@1": [pytest.approx(1 / 3), 1], "pass@3": [1, 1]}
    assert passed([good], {"prompt": "no tests"}) == {}
