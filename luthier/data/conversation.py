"""What a row means, whatever layout it came in: `Conversation` or `Text`, and where it came from.

The canonical form is the OpenAI `messages` layout. Nothing here knows a file layout or a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import RowError


@dataclass(frozen=True, slots=True)
class Origin:
    """The place a row was read from; prints as `file:line`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as its file holds it: a JSON value and its origin."""

    origin: Origin
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `weight` scales the loss of an assistant turn; 0 means it is context only."""

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: float = 1.0

    def for_template(self) -> dict[str, Any]:
        """The mapping that chat templates of the transformers library expect."""
        said: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            said["reasoning_content"] = self.reasoning
        if self.tool_calls:
            said["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            said["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            said["name"] = self.name
        return said


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with the tools the assistant may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def content_id(self) -> str:
        """Sixteen hex digits that depend on what is said, not on file, line or layout."""
        return _digest([[m.for_template() for m in self.messages], list(self.tools)])

    @property
    def question(self) -> str:
        """The text of the last user turn, for display."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text without roles."""

    text: str

    @property
    def content_id(self) -> str:
        """Sixteen hex digits of the text."""
        return _digest(self.text)


Content = Conversation | Text


def _digest(value: Any) -> str:
    canonical = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=8).hexdigest()


# ---- building messages from loosely typed JSON, shared by the formats --------------------------------------------

ROLES = {"system", "developer", "user", "assistant", "tool"}


def conversation(turns: Sequence[Message], origin: Origin, tools: Any = None) -> Conversation:
    """Messages as a checked conversation.

    Raises:
        RowError: nothing said by an assistant, or an assistant turn to learn that is empty or repeats the question.
    """
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(str(origin), "no-assistant", "no assistant message, so there is nothing to learn")
    for position, turn in enumerate(turns):
        says = turn.content.strip() or turn.tool_calls
        if turn.role == "assistant" and turn.weight > 0 and not says:
            raise RowError(str(origin), "empty-answer", f"message {position} (assistant) says nothing")
        before = turns[position - 1].content if position else ""
        if turn.role == "assistant" and turn.weight > 0 and turn.content and turn.content == before:
            raise RowError(str(origin), "identical-pair", f"message {position} (assistant) repeats what it answers")
    return Conversation(tuple(turns), _tools(tools, origin))


def message(value: Any, origin: Origin, position: int) -> Message:
    """One OpenAI message.

    Raises:
        RowError: a role, content, tool call, `train` or `weight` of the wrong kind.
    """

    def wrong(detail: str) -> RowError:
        return RowError(str(origin), "bad-message", f"message {position}: {detail}")

    if not isinstance(value, dict):
        raise wrong(f"expected a mapping with role and content, got {type(value).__name__}")
    role = value.get("role")
    if role not in ROLES:
        raise wrong(f"role {role!r}; allowed: {', '.join(sorted(ROLES))}")
    weight = value.get("weight", 1.0)
    if not isinstance(value.get("train", True), bool):
        raise wrong(f"train must be true or false, got {value['train']!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise wrong(f"weight must be a number of at least 0, got {weight!r}")
    reasoning = value.get("reasoning_content", value.get("thinking"))
    if reasoning is not None and not isinstance(reasoning, str):
        raise wrong("reasoning_content must be a string")
    return Message(
        role=role,
        content=_text_of(value.get("content"), wrong),
        reasoning=reasoning,
        tool_calls=_tool_calls(value.get("tool_calls"), wrong),
        tool_call_id=value.get("tool_call_id"),
        name=value.get("name"),
        weight=float(weight) if value.get("train", True) else 0.0,
    )


def _text_of(content: Any, wrong: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise wrong("content must be a string or a list of text parts; images and audio are not read yet")
    return "".join(str(text) for text in texts)


def _tool_calls(calls: Any, wrong: Any) -> tuple[Mapping[str, Any], ...]:
    """OpenAI tool calls with `arguments` as a mapping, which is what chat templates expect."""
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise wrong("tool_calls must be a list")
    result = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong(f"a tool call needs a function name, got {call!r}")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                raise wrong(f"arguments of {function['name']} are not valid JSON: {error}") from None
        entry: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        result.append(({"id": call["id"]} if "id" in call else {}) | entry)
    return tuple(result)


def _tools(tools: Any, origin: Origin) -> tuple[Mapping[str, Any], ...]:
    if tools in (None, "", []):
        return ()
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowError(str(origin), "bad-tools", f"tools is not valid JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(str(origin), "bad-tools", "tools must be a list of function descriptions")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)
