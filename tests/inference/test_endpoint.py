"""Answers of an endpoint: what is sent, what is tried again, and what every failure says; never the key."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from luthier.data.conversation import Conversation, Message
from luthier.errors import ModelError, UserError
from luthier.inference.endpoint import TRIES, EndpointEngine
from luthier.inference.engine import Sampling
from tests.endpoint import Endpoint, serving

KEY = "sk-secret-0123456789"
GREEDY = Sampling(max_new_tokens=7)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Says again what was asked last."""
    with serving(Endpoint(lambda asked: str(asked["messages"][-1]["content"]))) as served:
        yield served


def engine(endpoint: Endpoint, **options: Any) -> EndpointEngine:
    return EndpointEngine(endpoint.url, "small", first_wait_seconds=0.001, **options)


def ask(text: str) -> Conversation:
    return Conversation((Message(role="user", content=text),))


def failure(endpoint: Endpoint, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        list(engine(endpoint, **options).generate([ask("a")], GREEDY))
    return str(caught.value)


def test_answers_come_with_the_number_of_their_prompt(endpoint: Endpoint) -> None:
    said = endpoint.reply
    endpoint.reply = lambda asked: (time.sleep(0.02), said(asked))[1]  # long enough for the others to come in
    prompts = [ask(f"row {n}") for n in range(20)]
    found = dict(engine(endpoint, at_once=3).generate(prompts, GREEDY))
    assert found == {n: f"row {n}" for n in range(20)}
    assert 1 < endpoint.most_at_once <= 3


def test_calls_of_tools_are_heard(endpoint: Endpoint) -> None:
    """Whole, and in the pieces in which services stream them."""
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    endpoint.replies = [(200, {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}, {})]
    (_, said), *_ = engine(endpoint).generate([ask("a")], GREEDY)
    pieces = [{"function": {"name": "f", "arguments": '{"x"'}}, {"index": 0, "function": {"arguments": ": 1}"}}]
    chunks: list[Any] = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    stream = "".join(
        f"data: {json.dumps(chunk)}\n\n" for chunk in [{"choices": [{"delta": {"content": "I"}}]}, *chunks]
    )
    endpoint.replies = [(200, stream + "data: [DONE]\n\n", {})]
    assert said == '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert "".join(engine(endpoint).stream(ask("a"), GREEDY)) == "I" + said


def test_what_is_sent(endpoint: Endpoint) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    tool = {"type": "function", "function": {"name": "f"}}
    talk = Conversation((Message(role="assistant", tool_calls=(call,)), Message(role="user", content="q")), (tool,))
    list(engine(endpoint, at_once=1).generate([talk, talk], Sampling(7, 0.5, 0.9, seed=3)))
    assert [asked["seed"] for asked in endpoint.asked] == [3, 4], "equal prompts get answers of their own"
    sent = endpoint.asked[0]
    assert sent["messages"][0]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}', "OpenAI's are text"
    assert call["function"]["arguments"] == {"x": 1}
    del sent["messages"]
    assert sent == {
        "model": "small", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "tools": [tool],
    }  # fmt: skip


def test_the_key_is_sent_and_never_said(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    list(engine(endpoint, key_variable="OPENAI_API_KEY").generate([ask("a")], GREEDY))
    assert endpoint.keys == [f"Bearer {KEY}"]
    for status in (400, 401, 403, 404, 500):
        endpoint.models = {"data": [{"id": KEY}]}
        endpoint.replies = [(status, {"error": f"Incorrect API key provided: {KEY}"}, {})] * TRIES
        assert KEY not in failure(endpoint, key_variable="OPENAI_API_KEY")
    for body in (KEY, {"said": KEY}):
        endpoint.replies = [(200, body, {})]
        said = failure(endpoint, key_variable="OPENAI_API_KEY")
        assert KEY not in said and "***" in said


def test_a_key_is_never_sent_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.raises(UserError, match="in the open"):
        EndpointEngine("http://example.org/v1", "m", key_variable="MY_KEY")


@pytest.mark.parametrize("value", ["", "  ", "sk-a\nHost: b", "clé"])
def test_a_variable_without_a_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError, match=r"key_variable: .*MY_KEY") as caught:
        engine(endpoint, key_variable="MY_KEY")
    assert not value.strip() or value not in str(caught.value)


def test_a_busy_server_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.replies = [(429, "slow down", {}), (503, "starting", {}), (500, "oops", {})]
    assert list(engine(endpoint).generate([ask("a")], GREEDY)) == [(0, "a")]
    assert len(endpoint.asked) == 4
    endpoint.replies = [(429, "slow down", {"Retry-After": "1"})]
    begun = time.monotonic()
    assert list(engine(endpoint).generate([ask("a")], GREEDY)) == [(0, "a")]
    assert time.monotonic() - begun >= 1
    endpoint.replies = [(503, "still starting", {})] * 99
    assert f"gave no answer in {TRIES} tries; the last: 503: still starting" in failure(endpoint)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, "no", {}), "401: it asks for a key: name its variable (key_variable)"),
        ((404, "no", {}), "404: no model 'small' there; it has: large, tiny"),
        ((400, {"error": "too long"}, {}), '400: {"error": "too long"}'),
        ((200, "<html>Welcome", {}), "answered with something else than a JSON object: <html>Welcome"),
        ((200, "[1]", {}), "answered with something else than a JSON object: [1]"),
        ((200, {"choices": []}, {}), "its answer has no choices[0].message: {'choices': []}"),
    ],
)
def test_failures_that_stay_are_not_tried_again(endpoint: Endpoint, reply: Any, message: str) -> None:
    endpoint.models = {"data": [{"id": "tiny"}, {"id": "large"}]}
    endpoint.replies = [reply]
    said = failure(endpoint)
    assert message in said and endpoint.url in said and len(endpoint.asked) == 1


def test_no_such_address(endpoint: Endpoint) -> None:
    endpoint.models = None
    endpoint.replies = [(404, "no", {})]
    assert "404: no chat completions there; an endpoint mostly ends in /v1" in failure(endpoint)


def test_nobody_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match=f"{url}: cannot be reached: .*; is it running"):
        list(EndpointEngine(url, "small").generate([ask("a")], GREEDY))


def test_a_server_that_was_there_may_come_back() -> None:
    """As it does where it is started again; five hours of answers are not thrown away at once."""
    with serving(Endpoint(lambda asked: "yes")) as endpoint:
        engine = EndpointEngine(endpoint.url, "small", first_wait_seconds=0.01)
        assert dict(engine.generate([ask("a")], GREEDY)) == {0: "yes"}
    with pytest.raises(ModelError, match="gave no answer in 5 tries; the last: ConnectError"):
        list(engine.generate([ask("b")], GREEDY))


def test_a_silent_server_is_given_up(endpoint: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        waiting = EndpointEngine(url, "small", timeout_seconds=0.05, first_wait_seconds=0.001)
        with pytest.raises(ModelError, match=f"in {TRIES} tries; the last: ReadTimeout"):
            list(waiting.generate([ask("a")], GREEDY))


def test_streaming(endpoint: Endpoint) -> None:
    parts = [
        {"choices": [{"delta": delta}]} for delta in ({"role": "assistant"}, {"content": "Hel"}, {"content": "lo"})
    ]
    lines = [": a comment", *(f"data: {json.dumps(part)}" for part in parts), 'data: {"choices": []}', "data: [DONE]"]
    endpoint.replies = [(503, "busy", {}), (200, "\n\n".join(lines) + "\n\n", {})]
    assert [piece for piece in engine(endpoint).stream(ask("a"), GREEDY) if piece] == ["Hel", "lo"]
    assert endpoint.asked[0]["stream"] is True
    endpoint.replies = [(200, "data: {broken\n\n", {})]
    with pytest.raises(ModelError, match="something else than a JSON object"):
        list(engine(endpoint).stream(ask("a"), GREEDY))


def test_an_error_ends_the_others(endpoint: Endpoint) -> None:
    endpoint.replies = [(400, "no", {})]
    with pytest.raises(ModelError, match="400"):
        list(engine(endpoint, at_once=1).generate([ask("a")] * 50, GREEDY))
    assert len(endpoint.asked) < 50


def test_settings_are_sent_where_they_are_asked_for(endpoint: Endpoint) -> None:
    """No others: not every service knows them."""
    usual = {"model", "messages", "temperature", "top_p", "max_tokens"}
    list(engine(endpoint).generate([ask("a")], GREEDY))
    assert set(endpoint.asked[-1]) == usual
    how = Sampling(stop=("\n",), top_k=5, min_p=0.1, presence_penalty=0.5, schema='{"type": "object"}', seed=3)
    list(engine(endpoint).generate([ask("a")], how, seeds=[9]))
    told = endpoint.asked[-1]
    assert (told["stop"], told["top_k"], told["min_p"], told["presence_penalty"], told["seed"]) == (
        ["\n"],
        5,
        0.1,
        0.5,
        9,
    )
    assert told["response_format"]["json_schema"]["schema"] == {"type": "object"} and "frequency_penalty" not in told
