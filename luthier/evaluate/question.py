"""What a row asks, and what it says the answer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.data.conversation import Content, Conversation, Message, Task, Text, conversations


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation up to its last assistant turn, what that turn says, and which tools it calls.

    `fields` is the whole row where it only asks (a prompt with tests, for example).
    """

    prompt: Conversation
    reference: str
    calls: tuple[Mapping[str, Any], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)


def question(content: Content) -> Question | None:
    """The question a row asks, with the better of two answers; None for text and for rows that end otherwise."""
    if isinstance(content, Task):
        known = content.answer or content.fields.keys() & {"test", "test_list"}
        return Question(content.asked, content.answer or "", fields=content.fields) if known else None
    if isinstance(content, Text):
        return None
    talk = conversations(content)[0]
    last = max((i for i, m in enumerate(talk.messages) if m.role == "assistant"), default=0)
    said = talk.messages[last] if last else Message(role="assistant")
    if not said.content.strip() and not said.tool_calls:
        return None
    return Question(replace(talk, messages=talk.messages[:last]), said.content, said.tool_calls)
