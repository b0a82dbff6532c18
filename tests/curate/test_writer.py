"""What settings of a writing model become, and what is refused; a pasted key is never shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.config import CleanConfig, parse_section
from luthier.curate.writer import Remembering, Writer, asking, prompts
from luthier.errors import ConfigError, ModelError, UserError
from luthier.inference.endpoint import EndpointEngine
from luthier.inference.hf import HfEngine
from tests.curate.conftest import talk
from tests.endpoint import Endpoint


def opened(writer: Writer) -> Any:
    """The engine behind what remembers its answers."""
    found = writer.open()
    assert isinstance(found, Remembering)
    return found.engine


def test_an_answer_is_asked_for_once(
    endpoint: Endpoint, writer: Writer, told: Callable[[Callable[[str], str]], None]
) -> None:
    """Also in another process; but the same question may have a second answer."""
    told(lambda prompt: f"answer {len(endpoint.asked)}")
    prompts = [asking("paraphrase", text="a"), asking("paraphrase", text="a"), asking("paraphrase", text="b")]
    first = dict(writer.open().generate(prompts, writer.sampling()))
    assert len(set(first.values())) == 3 == len(endpoint.asked)
    assert dict(writer.open().generate(prompts, writer.sampling())) == first and len(endpoint.asked) == 3
    dict(writer.open().generate(prompts, writer.sampling(seed=1)))
    assert len(endpoint.asked) == 6
    told(lambda prompt: " ")
    for _ in range(2):
        assert dict(writer.open().generate([talk("c", "d")], writer.sampling())) == {0: " "}
    assert len(endpoint.asked) == 8, "nothing is no answer to keep"


def test_seeds_are_those_of_all_prompts(
    endpoint: Endpoint, writer: Writer, told: Callable[[Callable[[str], str]], None]
) -> None:
    """A run that goes on draws what one draws that was not stopped."""
    told(lambda prompt: prompt)
    prompts = [asking("paraphrase", text=text) for text in "abc"]
    dict(writer.open().generate(prompts[1:2], writer.sampling(temperature=1.0, seed=7)))
    dict(writer.open().generate(prompts, writer.sampling(temperature=1.0, seed=7)))
    drawn = [(one["messages"][-1]["content"].strip()[-1], one["seed"]) for one in endpoint.asked]
    assert drawn[0] == ("b", 7) and sorted(drawn[1:]) == [("a", 7), ("c", 9)]
    dict(writer.open().generate(prompts[:1], writer.sampling(temperature=1.0), seeds=[42]))
    dict(writer.open().generate(prompts[:1], writer.sampling(temperature=1.0), seeds=[43]))
    assert [one["seed"] for one in endpoint.asked[3:]] == [42, 43]


def test_one_here_or_one_elsewhere(tiny: Path) -> None:
    here = Writer.model_validate(str(tiny))
    assert isinstance(opened(here), HfEngine) and opened(here) is opened(here)
    said = dict(here.open().generate([asking("paraphrase", text="a"), talk("a", "b")], here.sampling()))
    assert set(said) == {0, 1}
    there = Writer(endpoint="http://127.0.0.1:1/v1/", model="m", at_once=2, timeout_seconds=3)
    there = opened(there)
    assert isinstance(there, EndpointEngine)
    assert (there.url, there.model, there.at_once, there.client.timeout.read) == ("http://127.0.0.1:1/v1", "m", 2, 3)


def test_what_a_writer_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        Writer(model="nowhere").open()
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match="the environment variable NO_KEY is not set"):
        Writer(endpoint="http://127.0.0.1:1/v1", model="m", key_variable="NO_KEY").open()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("key_variable", "sk-secret", "write the NAME of an environment variable, such as OPENAI_API_KEY"),
        ("key_variable", "hf_secret", "write the NAME of an environment variable"),
        ("endpoint", "http://me:secret@host/v1", "without a user, a password or a query"),
        ("endpoint", "http://host/v1?key=secret", "without a user, a password or a query"),
        ("endpoint", "ftp://host", "write http://HOST:PORT/v1 or https://"),
    ],
)
def test_wrong_settings(key: str, value: str, message: str) -> None:
    tree = {"clean": [{"type": "judge", "writer": {"model": "m", key: value}}]}
    with pytest.raises(ConfigError) as caught:
        parse_section(CleanConfig, tree, source="--with")
    assert f"writer.{key}: " in str(caught.value) and message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_prompts_take_any_text() -> None:
    texts = {"text": "{x} %s \\ {", "question": "{q}", "answer": "}", "rubric": "{r}", "language": "{l}"}
    texts |= {"first": "{", "second": "}", "reference": "{0}"}
    for name in prompts():
        prompt = asking(name, **texts).messages[0].content
        assert any(text in prompt for text in texts.values())
    assert "{x} %s \\ {" in asking("questions", **texts).messages[0].content


@pytest.mark.parametrize("endpoint", ["http://models.example/v1", "http://10.0.0.5:8000/v1"])
def test_a_key_does_not_travel_in_the_open(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="a key would be sent in the open; write https://"):
        Writer(model="m", endpoint=endpoint, key_variable="KEY")
    assert Writer(model="m", endpoint=endpoint) and Writer(
        model="m", endpoint="http://127.0.0.1:1/v1", key_variable="KEY"
    )
    assert Writer(model="m", endpoint=endpoint.replace("http:", "https:"), key_variable="KEY")
