"""What may be asked: OpenAI's requests, with everything that is not done refused rather than ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.errors import UserError
from luthier.inference.engine import Sampling

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, Field(max_length=1_000_000)]


class Asked(BaseModel):
    """Base of every request: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    user: str | None = None
    """Taken and not used, as the other keys that only OpenAI's own service needs."""


class Generated(Asked):
    """What all requests for text have; null is the same as not given."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Unit | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    stream_options: dict[str, bool] | None = None

    @property
    def longest(self) -> int | None:
        """Tokens that an answer may have."""
        return self.max_tokens

    def sampling(self, room: int, *, logprobs: int | None = None, schema: str | None = None) -> Sampling:
        """How the tokens are drawn; `room` is what may follow the prompt. As at OpenAI, the temperature is 1."""
        given = self.model_dump(include=set(Sampling.__slots__) - {"stop", "logprobs"}, exclude_none=True)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        longest = min(self.longest or room, room)
        return Sampling(
            **{"temperature": 1.0} | given, max_new_tokens=longest, stop=stop, logprobs=logprobs, schema=schema
        )


class ResponseFormat(BaseModel):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] = {}


class Chat(Generated):
    """A request for the next message."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def longest(self) -> int | None:
        """Tokens that an answer may have."""
        return self.max_completion_tokens or self.max_tokens

    def schema_of(self, tools: Mapping[str, Any]) -> str | None:
        """The JSON schema that the answer is held to: that of a call that must be made, or of the format."""
        if isinstance(self.tool_choice, dict) or self.tool_choice == "required":
            named = self.tool_choice.get("function") if isinstance(self.tool_choice, dict) else None
            name = named.get("name") if isinstance(named, dict) else named
            calls = [_call(tool) for tool in tools.values() if self.tool_choice == "required" or tool["name"] == name]
            if not calls:
                raise UserError(f"tool_choice: no tool {name or ''} among the tools of this request")
            return json.dumps({"anyOf": calls})
        asked = self.response_format
        if asked is None or asked.type == "text":
            return None
        schema = asked.json_schema.get("schema") if asked.type == "json_schema" else {"type": "object"}
        if not isinstance(schema, dict):
            raise UserError("response_format: json_schema.schema is missing")
        return json.dumps(schema)


def _call(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call of one tool."""
    parts = {"name": {"const": tool["name"]}, "arguments": tool.get("parameters") or {"type": "object"}}
    return {"type": "object", "required": ["name", "arguments"], "additionalProperties": False, "properties": parts}


class Completion(Generated):
    """A request for what follows a text."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]


class Embedding(Asked):
    """A request for texts as vectors."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"


class Score(Asked):
    """A request for what a reward model says of answers `text_2` to the question `text_1`."""

    text_1: Text
    text_2: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]


class NewAdapter(BaseModel):
    """An adapter to load: a folder below the one that the server was started with."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]
    path: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$", max_length=200)]
