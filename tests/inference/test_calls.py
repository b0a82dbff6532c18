"""Calls of tools: found in what models say, and spelled as they spell them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.inference.calls import calls_in, spelled

KNOWN = {"weather": {"name": "weather"}}
CALLED = {"name": "weather", "arguments": {"city": "Bern"}}


@pytest.mark.parametrize(
    ("text", "said", "count"),
    [
        (f"Let me look.\n<tool_call>\n{json.dumps(CALLED)}\n</tool_call>", "Let me look.", 1),
        (json.dumps(CALLED), "", 1),
        (json.dumps([CALLED, CALLED]), "", 2),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', 0),
        ("<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", 0),
        ("It rains.", "It rains.", 0),
    ],
)
def test_calls_are_found(text: str, said: str, count: int) -> None:
    found, calls = calls_in(text, KNOWN)
    assert (found, len(calls)) == (said, count)
    assert all(json.loads(call["function"]["arguments"]) == {"city": "Bern"} for call in calls)


@given(st.text(), st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=3))
def test_what_is_spelled_is_found(text: str, given: list[dict[str, object]]) -> None:
    made = spelled([{"name": "weather", "arguments": json.dumps(one)} for one in given])
    _, calls = calls_in(made, KNOWN)
    assert [json.loads(call["function"]["arguments"]) for call in calls] == given
    calls_in(text, KNOWN)
