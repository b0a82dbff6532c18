"""What a row means, whatever layout it came in: `Conversation`, `Text`, `Preference`, `Labelled` answer or `Task`.

The canonical form is the OpenAI `messages` layout. Nothing here knows a file layout or a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.data.strict import read_json
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
        calls = [dict(call) for call in self.tool_calls] or None
        more = {"reasoning_content": self.reasoning, "tool_calls": calls, "tool_call_id": self.tool_call_id}
        said = {key: value for key, value in (more | {"name": self.name}).items() if value is not None}
        return {"role": self.role, "content": self.content} | said


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
class Choices(Conversation):
    """A question with options, as the conversation that is learnt from it: asked with lettered options, it is a letter.

    `stem` is the question alone, `right` the number of the right option, from 0.
    """

    stem: str = ""
    options: tuple[str, ...] = ()
    right: int = 0
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text without roles."""

    text: str

    @property
    def content_id(self) -> str:
        """Sixteen hex digits of the text."""
        return _digest(self.text)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, of which one is better; `margin` says by how much, where the data does."""

    chosen: Conversation
    rejected: Conversation
    margin: float | None = None

    @property
    def content_id(self) -> str:
        """Sixteen hex digits of both answers and their prompt."""
        return _digest([self.chosen.content_id, self.rejected.content_id])


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that is wanted or not."""

    answer: Conversation
    wanted: bool

    @property
    def content_id(self) -> str:
        """Sixteen hex digits of the answer, its prompt and its label."""
        return _digest([self.answer.content_id, self.wanted])


@dataclass(frozen=True, slots=True)
class Task:
    """Something asked, whose answers are judged: the messages up to there, the right answer where there is one.

    `fields` is the whole row, for judges that look at more.
    """

    asked: Conversation
    answer: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def content_id(self) -> str:
        """Sixteen hex digits of what is asked and the right answer."""
        return _digest([self.asked.content_id, self.answer])


Content = Conversation | Text | Preference | Labelled | Task


def conversations(content: Content) -> tuple[Conversation, ...]:
    """The conversations a row holds, in the order in which objectives render them."""
    if isinstance(content, Preference):
        return content.chosen, content.rejected
    if isinstance(content, Labelled):
        return (content.answer,)
    return (content,) if isinstance(content, Conversation) else ()


def _digest(value: Any) -> str:
    canonical = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=8).hexdigest()


# ---- building messages from loosely typed JSON, shared by the formats --------------------------------------------

ROLES = {"system", "developer", "user", "assistant", "tool"}
SWIFTS = {"tool_call": "assistant", "tool_response": "tool"}
"""Roles that only ms-swift has; what `tool_call` says is the call."""
FLAGS = ("train", "training", "loss")
"""Keys that say whether a message is learnt; the last two are Axolotl's and ms-swift's."""
WEIGHTS = ("weight", "loss_weight", "loss_scale")
"""Keys that say by how much; the last two are LLaMA-Factory's and ms-swift's."""
LARGEST_WEIGHT = 3e38
"""Sequences keep weights as float32, which holds no more."""

Wrong = Callable[[str], RowError]
"""Makes the error of one message from a sentence."""


def conversation(turns: Sequence[Message], origin: Origin, tools: Any = None) -> Conversation:
    """Messages as a checked conversation.

    Raises:
        RowError: nothing said by an assistant, or an assistant turn to learn that is empty or repeats the question.
    """
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(origin, "no-assistant", "no assistant message, so there is nothing to learn")
    for position, turn in enumerate(turns):
        if turn.role != "assistant" or turn.weight <= 0:
            continue
        said = turn.content.strip()
        if not said and not turn.tool_calls:
            raise RowError(origin, "empty-answer", f"message {position} (assistant) says nothing")
        if said and position and said == turns[position - 1].content.strip():
            raise RowError(origin, "identical-pair", f"message {position} (assistant) repeats what it answers")
    return Conversation(tuple(turns), tools_of(tools, origin))


def unlearnt(turn: Message) -> Message:
    """The same turn as context only."""
    return replace(turn, weight=0.0) if turn.role == "assistant" else turn


def message(value: Any, origin: Origin, position: int) -> Message:
    """One OpenAI message; a key that holds null is a key that is not there.

    Raises:
        RowError: a role, content, name, tool call, `train` or `weight` of the wrong kind.
    """
    wrong = wrong_message(origin, position)
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping with role and content, got {type(value).__name__}")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES | SWIFTS.keys():
        raise wrong(f"role {_short(role)}; allowed: {', '.join(sorted(ROLES | SWIFTS.keys()))}")
    if value.get("train_detail") or value.get("training_detail"):
        raise wrong("a part of a message cannot be learnt alone; write it as messages, the others with train: false")
    if role == "tool_call":
        return Message(role="assistant", tool_calls=called(value.get("content"), wrong), weight=weight(value, wrong))
    reasoning = _string(value, "reasoning_content", wrong)
    return Message(
        role=SWIFTS.get(role, role),
        content=_text_of(value.get("content"), wrong),
        reasoning=_string(value, "thinking", wrong) if reasoning is None else reasoning,
        tool_calls=tool_calls(value.get("tool_calls"), wrong),
        tool_call_id=_string(value, "tool_call_id", wrong),
        name=_string(value, "name", wrong),
        weight=weight(value, wrong),
    )


def wrong_message(origin: Origin, position: int) -> Wrong:
    """Errors of the message at a position."""
    return lambda detail: RowError(origin, "bad-message", f"message {position}: {detail}")


def system_turns(value: Mapping[str, Any], origin: Origin) -> list[Message]:
    """The system message of a row that holds it under a key of its own, if it has one; raises RowError."""
    text = _string(value, "system", lambda detail: RowError(origin, "bad-message", detail))
    return [Message(role="system", content=text)] if text else []


def weight(value: Mapping[str, Any], wrong: Wrong) -> float:
    """What `train` and `weight` of a message say together, under whichever name; raises RowError."""
    flags = {key: value[key] for key in FLAGS if value.get(key) is not None}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise wrong(f"{key} must be true or false, got {flag!r}")
    name = next((name for name in WEIGHTS if value.get(name) is not None), "")
    given = value[name] if name else 1.0
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= LARGEST_WEIGHT:
        raise wrong(f"{name} must be a number from 0 to {LARGEST_WEIGHT:g}, got {_short(given)}")
    return 0.0 if False in flags.values() else float(given)


def called(said: Any, wrong: Wrong) -> tuple[Mapping[str, Any], ...]:
    """What a turn says that is nothing but a call, or a list of some, in JSON; raises RowError."""
    calls = _spelled(said, wrong, "a function_call must be JSON with name and arguments")
    return tool_calls(calls if isinstance(calls, list) else [calls], wrong)


def tool_calls(calls: Any, wrong: Wrong) -> tuple[Mapping[str, Any], ...]:
    """OpenAI tool calls with `arguments` as a mapping, which is what chat templates expect; raises RowError."""
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise wrong(f"tool_calls must be a list, got {type(calls).__name__}")
    return tuple(_tool_call(call, wrong) for call in calls)


def _tool_call(call: Any, wrong: Wrong) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong(f"a tool call needs a function name, got {_short(call)}")
    name = function["name"]
    arguments = _spelled(function.get("arguments"), wrong, f"arguments of {name} are not valid JSON")
    if arguments is not None and not isinstance(arguments, dict):
        raise wrong(f"arguments of {name} must be a mapping of names to values, got {_short(arguments)}")
    identity = _string(call, "id", wrong)
    entry = {"type": "function", "function": {"name": name, "arguments": arguments or {}}}
    return entry if identity is None else {"id": identity} | entry


def _spelled(value: Any, wrong: Wrong, rule: str) -> Any:
    """What a string spells in JSON; anything else as it is."""
    try:
        return read_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise wrong(f"{rule}: {error}") from None


def _string(value: Mapping[str, Any], key: str, wrong: Wrong) -> str | None:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise wrong(f"{key} must be a string, got {_short(text)}")
    return text


def _text_of(content: Any, wrong: Wrong) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [
        part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise wrong("content must be a string or a list of text parts; images and audio are not read yet")
    return "".join(str(text) for text in texts)


def tools_of(tools: Any, origin: Origin) -> tuple[Mapping[str, Any], ...]:
    """Tools as templates take them, from a list of functions or the JSON of one; raises RowError."""
    if tools in (None, "", []):
        return ()
    tools = _spelled(tools, lambda detail: RowError(origin, "bad-tools", detail), "tools is not valid JSON")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(origin, "bad-tools", "tools must be a list of function descriptions")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    for tool in wrapped:
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(origin, "bad-tools", f"a tool needs a function name, got {_short(tool)}")
    return tuple(wrapped)


def _short(value: Any) -> str:
    """A wrong value as messages show it; a whole image would drown them."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}... ({type(value).__name__})"
