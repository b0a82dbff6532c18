"""Rows rewritten in part: which turns may change, what stands in the others, and the row as a value to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from luthier.data.conversation import (
    Content,
    Conversation,
    Labelled,
    Message,
    Origin,
    Preference,
    Row,
    Task,
    Text,
    conversations,
)
from luthier.data.formats import base as formats
from luthier.data.formats.preference import PROMPTS
from luthier.errors import RowError

Of = Literal["question", "answer", "both"]
ROLES = {"question": ("user",), "answer": ("assistant",), "both": ("user", "assistant")}
PARTS_OF_PROMPT = frozenset({"input", "system", "history", *PROMPTS})
"""Keys of a task's row that are its prompt, or turns of it, once it was read."""


def rewritten(content: Content, change: Callable[[str], str], of: Of = "question") -> Content:
    """A row with the text of some turns changed. Answers that are judged, compared or checked never are."""
    if isinstance(content, Text):
        return Text(change(content.text))
    if isinstance(content, Preference):
        shared = len(asked(content))
        chosen = _turns(content.chosen, change, "question", shared)
        rejected = (*chosen.messages[:shared], *content.rejected.messages[shared:])  # changed once: chance may be in it
        return replace(content, chosen=chosen, rejected=replace(content.rejected, messages=rejected))
    if isinstance(content, Labelled):
        return replace(content, answer=_turns(content.answer, change, "question"))
    if isinstance(content, Task):
        return replace(content, asked=_turns(content.asked, change, "question"))
    return _turns(content, change, of)


def asked(pair: Preference) -> tuple[Message, ...]:
    """The turns that both answers begin with."""
    both = zip(pair.chosen.messages, pair.rejected.messages, strict=False)
    shared = [one == other for one, other in both]
    return pair.chosen.messages[: shared.index(False) if False in shared else len(shared)]


def unchanged(content: Content, of: Of = "question") -> str:
    """What a row says where `rewritten` leaves it alone, as one text."""
    left = rewritten(content, lambda _: "", of)
    right = content.answer or "" if isinstance(content, Task) else ""
    turns = [turn for talk in talks(left) for turn in talk.messages]
    return "\n".join([right, *(f"{turn.content}\n{turn.reasoning or ''}\n{turn.tool_calls or ''}" for turn in turns)])


def value_of(content: Content) -> dict[str, Any]:
    """A row in Luthier's own layout of its kind, which reads as the same content."""
    if isinstance(content, Text):
        return {"text": content.text}
    if isinstance(content, Task):
        fields = {key: one for key, one in content.fields.items() if key not in PARTS_OF_PROMPT}
        answer = {} if fields or content.answer is None else {"answer": content.answer}
        return fields | answer | {"prompt": _values(content.asked.messages)}
    value: dict[str, Any]
    if isinstance(content, Preference):
        shared = len(asked(content))
        value = {"prompt": _values(content.chosen.messages[:shared])}
        value |= {"chosen": _values(content.chosen.messages[shared:])}
        value |= {"rejected": _values(content.rejected.messages[shared:])}
        value |= {} if content.margin is None else {"margin": content.margin}
    else:
        value = {"messages": _values(talks(content)[0].messages)}
        value |= {"label": content.wanted} if isinstance(content, Labelled) else {}
    tools = talks(content)[0].tools
    return value | ({"tools": [dict(tool) for tool in tools]} if tools else {})


def reads_as_itself(content: Content) -> bool:
    """Whether what is written of a row is read as the same row."""
    try:
        return formats.read(layout_of(content), Row(Origin("", 0), value_of(content))) == content
    except RowError:
        return False


def layout_of(content: Content) -> str:
    """The layout in which `value_of` says a row."""
    layouts = {Text: "text", Task: "prompt", Preference: "preference", Labelled: "labelled", Conversation: "messages"}
    return next(layout for kind, layout in layouts.items() if isinstance(content, kind))


def talks(content: Content) -> tuple[Conversation, ...]:
    """The conversations of a row, what is asked in a task among them."""
    return (content.asked,) if isinstance(content, Task) else conversations(content)


def _turns(talk: Conversation, change: Callable[[str], str], of: Of, first: int | None = None) -> Conversation:
    """A conversation with its first turns changed, where they are of a role that may be."""
    turns = [
        replace(turn, content=change(turn.content)) if turn.role in ROLES[of] else turn
        for turn in talk.messages[:first]
    ]
    return Conversation((*turns, *talk.messages[len(turns) :]), talk.tools)  # options are no longer what is asked


def _values(turns: Sequence[Message]) -> list[dict[str, Any]]:
    return [turn.for_template() | ({} if turn.weight == 1 else {"weight": turn.weight}) for turn in turns]
