"""Metrics that look at an answer for itself: JSON, calls, code that is run, and what a function of yours says."""

from __future__ import annotations

import json
import math
import runpy
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from luthier.config import Positive
from luthier.data.strict import read_json
from luthier.errors import UserError
from luthier.evaluate.metrics import Metric
from luthier.evaluate.question import Question
from luthier.system.confined import confined


class Json(Metric):
    """1 when the answer is JSON (in a code block or not) with the keys of the reference; for rows whose answer is."""

    type: Literal["json"] = "json"

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """Validity, and whether it is equal."""
        expected = _json(asked.reference)
        if not isinstance(expected, dict | list):
            return {}
        found = [_json(answer) for answer in answers]
        valid = [type(one) is type(expected) and _keys(one) >= _keys(expected) for one in found]
        equal = [one == expected for one in found]
        return {"json_valid": [sum(valid) / len(found), 1.0], "json_equal": [sum(equal) / len(found), 1.0]}


class ToolCalls(Metric):
    """Whether the answer calls a tool that is there with the arguments it needs; and whether it is the right call."""

    type: Literal["tool_calls"] = "tool_calls"

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """Validity, and whether name and arguments are those of the row; for rows that end with a call."""
        if not asked.calls:
            return {}
        tools = {str(tool["function"]["name"]): tool["function"] for tool in asked.prompt.tools}
        right = [_told(call["function"]) for call in asked.calls]
        found = [[_told(one) for one in objects(answer) if "name" in one] for answer in answers]
        valid = [bool(calls) and all(_fits(name, arguments, tools) for name, arguments in calls) for calls in found]
        equal = [calls == right for calls in found]
        return {"call_valid": [sum(valid) / len(found), 1.0], "call_equal": [sum(equal) / len(found), 1.0]}


class Passes(Metric):
    """How likely one of k programs passes the tests of its row: pass@k (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    The programs run, as you: in a process of their own in an empty folder, with limits of time, memory and files, and
    without a network where the system allows that. Rows are as HumanEval's (`test`, `entry_point`) or MBPP's.
    """

    type: Literal["pass"] = "pass"
    seconds: Positive = 10
    """Time that a program has."""
    megabytes: Positive = 1024
    """Memory that a program has."""

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """For k of 1, 10, 100 and as many as there are."""
        tests = _tests(asked.fields)
        if not tests:
            return {}
        right = sum(self._passes(_program(answer, asked.fields), tests) for answer in answers)
        count = len(answers)
        return {f"pass@{k}": [pass_at(k, count, right), 1.0] for k in sorted({1, 10, 100, count}) if k <= count}

    def _passes(self, program: str, tests: str) -> bool:
        sealed = secrets.token_hex(16)
        limits = {"seconds": self.seconds, "megabytes": self.megabytes}
        asked = {"program": f"{program}\n\n{tests}\n", "sealed": sealed, **limits}
        done = confined("luthier.evaluate", "templates/run.py.txt", asked, seconds=2 * self.seconds)
        return done is not None and done[1] == sealed


def pass_at(k: int, count: int, right: int) -> float:
    """The chance that of k programs drawn from `count`, of which some are right, one is."""
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)


def _tests(row: Mapping[str, Any]) -> str:
    """The tests of a row as code; empty where it has none."""
    if isinstance(row.get("test_list"), list):
        return "\n".join(map(str, [row.get("test_setup_code") or "", *row["test_list"]]))
    test = str(row.get("test") or "")
    return f"{test}\n\ncheck({row['entry_point']})" if test and row.get("entry_point") else test


def _program(answer: str, row: Mapping[str, Any]) -> str:
    """The code of an answer; behind the prompt where that begins the function and the answer goes on with it."""
    code, name = fenced(answer), row.get("entry_point")
    return code if not name or f"def {name}" in code else f"{row.get('prompt', '')}{code}"


class PythonFile(Metric):
    """What a function of a file says: `def NAME(answer, reference, row) -> float`, from 0 to 1. Its code runs."""

    type: Literal["python"] = "python"
    path: str
    """The file."""
    function: str = "score"
    """The function in it; the result is called like it."""

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """The mean over answers; raises UserError where it is no number."""
        function = _function(self.path, self.function)
        found = [function(answer=answer, reference=asked.reference, row=dict(asked.fields)) for answer in answers]
        strange = [one for one in found if not isinstance(one, bool | int | float)]
        if strange:
            raise UserError(f"evaluate.metrics: {self.path}: {self.function} returned {strange[0]!r}, not a number")
        return {self.function: [sum(map(float, found)) / len(found), 1.0]}


@cache
def _function(path: str, name: str) -> Callable[..., Any]:
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"evaluate.metrics: {path}: no such .py file (looked at {file.absolute()})")
    function = runpy.run_path(str(file)).get(name)
    if not callable(function):
        raise UserError(f"evaluate.metrics: {path} has no function {name!r}; write {path}:NAME for another name")
    return function  # type: ignore[no-any-return]


def fenced(text: str) -> str:
    """What stands in the first code block; the whole text where there is none."""
    _, fence, rest = text.partition("```")
    return rest.partition("\n")[2].partition("```")[0] if fence else text


def objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects that stand in a text, such as calls between a template's tags; outermost ones, in order."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield found
        place = text.find("{", end)


def _json(text: str) -> Any:
    try:
        return read_json(fenced(text).strip())
    except ValueError:
        return None


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _told(call: Mapping[str, Any]) -> tuple[str, Any]:
    arguments = call.get("arguments", call.get("parameters")) or {}
    return str(call["name"]), _json(arguments) if isinstance(arguments, str) else arguments


def _fits(name: str, arguments: Any, tools: Mapping[str, Any]) -> bool:
    """Whether a tool of that name takes these arguments: an object with all it needs, and nothing it does not know."""
    if name not in tools or not isinstance(arguments, dict):
        return False
    known = tools[name].get("parameters") or {}
    return set(known.get("required", ())) <= set(arguments) <= set(known.get("properties", arguments))
