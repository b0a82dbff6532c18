"""The server as OpenAI's own client finds it."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.server.conftest import serving

WEB = httpx.Client(timeout=60)
HELLO: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
UNIT = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": UNIT | {"additionalProperties": False}}}
    for name in ("weather", "clock")
]
NEVER = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "never"}}}


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def text(reply: Any) -> str:
    return str(reply.choices[0].message.content)


def test_the_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["talkative", "one", "two", "encoder", "judge"]


@pytest.mark.parametrize("model", ["talkative", "one", "two"])
def test_a_chat_streamed_is_the_same_chat(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model, "messages": HELLO, "max_tokens": 12, "temperature": 0.9, "top_p": 0.95, "seed": 5, "n": 3,
        "presence_penalty": 0.5, "frequency_penalty": 0.2, "stop": ["never said"], "logprobs": True, "top_logprobs": 2,
        "extra_body": {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1},
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    assert whole.usage and len({choice.message.content for choice in whole.choices}) == 3
    pieces, tokens, ends, used = ["", "", ""], [0, 0, 0], ["", "", ""], None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        used = chunk.usage or used
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert pieces == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert tokens == [len(choice.logprobs.content) for choice in whole.choices]
    assert used and used.model_dump() == whole.usage.model_dump()
    assert all(len(one.top_logprobs) == 2 for one in whole.choices[0].logprobs.content)


def test_every_model_answers_for_itself(client: openai.OpenAI) -> None:
    said = {m: text(client.chat.completions.create(model=m, messages=HELLO, max_tokens=12, temperature=0))
            for m in ("talkative", "one", "two")}  # fmt: skip
    assert len(set(said.values())) == 3


def test_limits_and_stops(client: openai.OpenAI) -> None:
    def ask(**how: Any) -> Any:
        return client.chat.completions.create(model="talkative", messages=HELLO, temperature=0, **how)

    reply = ask(max_completion_tokens=3)
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3
    whole = text(ask(max_tokens=30))
    stopped = ask(max_tokens=30, stop=whole[8:12])
    assert text(stopped) == whole[: whole.index(whole[8:12])] and stopped.choices[0].finish_reason == "stop"


def test_a_schema_holds(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [3, 5]}}, "required": ["n"], "additionalProperties": False}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(model="one", messages=HELLO, max_tokens=60, response_format=asked)
    assert json.loads(text(reply))["n"] in (3, 5)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "clock"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_where_it_must_be(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    reply: Any = client.chat.completions.create(
        model="talkative", messages=HELLO, max_tokens=120, tools=TOOLS, tool_choice=choice, stream=stream, seed=1
    )
    if stream:
        chunks = [chunk.choices[0] for chunk in reply]
        (call,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
        finish = chunks[-1].finish_reason
    else:
        (call,), finish = reply.choices[0].message.tool_calls, reply.choices[0].finish_reason
    assert call.function.name in (("weather", "clock") if choice == "required" else ("clock",))
    assert json.loads(call.function.arguments)["unit"] in ("C", "F") and finish == "tool_calls"
    answered = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call.model_dump(exclude={"index"})]},
                {"role": "tool", "tool_call_id": call.id, "content": "12"}]  # fmt: skip
    assert client.chat.completions.create(model="talkative", messages=answered, tools=TOOLS, max_tokens=2).choices


def test_completions(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "two", "prompt": ["Numbers 0 1 2", "The capital"], "max_tokens": 6, "seed": 3}
    whole = client.completions.create(**asked)
    pieces = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == [choice.text for choice in whole.choices] and all(pieces)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, form: Any) -> None:
    found = client.embeddings.create(model="encoder", input=["one", "another"], encoding_format=form)
    assert [one.index for one in found.data] == [0, 1]
    assert len(client.embeddings.create(model="encoder", input="one").data[0].embedding) == 32


def test_scores(address: str) -> None:
    reply = WEB.post(f"{address}/v1/score", json={"model": "judge", "text_1": "Why?", "text_2": ["So.", "Because."]})
    assert [one["score"] for one in reply.json()["data"]] == [3.0, 8.0]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "gone"}, 404, "there are: one, talkative, two"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "nothing to answer"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "role 'nobody'"),
        ({"temperature": 3}, 400, "temperature"),
        ({"logit_bias": {"3": 1}}, 400, "logit_bias: Extra inputs are not permitted"),
        ({"max_tokens": 5000}, 400, "max_tokens: at most"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "the prompt has"),
        ({"response_format": {"type": "json_schema"}}, 400, "json_schema.schema is missing"),
        ({"response_format": NEVER}, 400, "schema"),
        ({"tool_choice": "required"}, 400, "no tool"),
        ({"tools": [{"type": "function"}]}, 400, "tool needs a function name"),
        ({"n": 99}, 400, "n: "),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(address: str, changes: dict[str, Any], status: int, said: str) -> None:
    reply = WEB.post(f"{address}/v1/chat/completions", json={"model": "talkative", "messages": HELLO} | changes)
    assert reply.status_code == status and said in reply.json()["error"]["message"], reply.text


def test_health_and_numbers(address: str) -> None:
    assert WEB.get(f"{address}/health").json() == {"status": "ok"}
    told = WEB.get(f"{address}/metrics").text
    for line in ("luthier_taken 0.0", 'luthier_tokens_total{kind="answer"}', "luthier_answer_seconds_count"):
        assert line in told
    assert WEB.get(f"{address}/nowhere").json()["error"]["type"] == "not_found_error"


def test_schemathesis_finds_no_failure_of_the_server(opened: Any) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings

    models = opened()
    with serving(models) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in schema.get_all_operations():
            made = operation.ok()

            def try_out(case: Any) -> None:
                if isinstance(case.body, dict) and "max_tokens" in case.body:
                    case.body["max_tokens"] = 2
                assert case.call(base_url=url).status_code < 500

            settings(
                max_examples=15, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(_given(made.as_strategy(), try_out))()  # fmt: skip
        assert models.taken == 0


def _given(strategy: Any, check: Any) -> Any:
    from hypothesis import given

    @given(case=strategy)
    def run(case: Any) -> None:
        check(case)

    return run
