"""Why tokens are not learnt: what a row says of a prompt, turn by turn, and what the template adds.

What each message says is put between marks that no row can hold, and the template itself renders it: so the template
tells where each message stands in the text that the renderer made, and nothing is looked for by what it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from typing import Any

from luthier.data.conversation import Content, Conversation, Message, Task, Text, conversations
from luthier.data.render import Rendered, Renderer, Tokens
from luthier.errors import RowError

FIRST = "the first token, which nothing predicts"
TEMPLATE = "written by the chat template"
PROMPT = "generation prompt: what makes the model answer"
CONTEXT = "context, fed before the answer"
"""Where the template does not let its messages be told apart."""
TOOLS = "tools that may be called"
TURNS = {"tool": "tool result", "assistant": "assistant turn of weight 0 (train: false)"}
ELSEWHERE = "assistant turn, learnt in a sequence of its own"

_OPEN, _AT, _CLOSE = "\ud800", "\ud801", "\ud802"
"""Halves of characters."""
_MARKS = re.compile(f"{_OPEN}(\\d+){_AT}|{_CLOSE}")
_TAGS = re.compile(r"(</?think>)")


@dataclass(frozen=True, slots=True)
class Explained:
    """One sequence as pieces of text, each with the reason why it is not learnt (empty: it is).

    `left_out` is what the row says and the template does not write there.
    """

    pieces: list[tuple[str, str]]
    left_out: list[str]


def sequences(content: Content, renderer: Renderer) -> list[tuple[Rendered, Conversation]]:
    """The sequences of a row as it stands, each with what it renders; raises RowError and TemplateError."""
    if isinstance(content, Text):
        return [(Rendered(renderer.whole(content), 0), Conversation(()))]
    if isinstance(content, Task):
        asked = content.asked
        prompt = Tokens.unsupervised(renderer.prompt(asked.messages, asked.tools))
        return [(Rendered(prompt, len(asked.messages)), asked)]
    return [(rendered, talk) for talk in conversations(content) for rendered in renderer.rendered(talk)]


def explained(rendered: Rendered, talk: Conversation, renderer: Renderer) -> Explained:
    """Why each token of a sequence that does not count is masked."""
    tokens, before = rendered.tokens, talk.messages[: rendered.last]
    reasons, left_out = list[str](), list[str]()
    if before:
        text = renderer.template(before, talk.tools, answer_next=True)
        by_character, left_out = _authors(text, before, talk.tools, renderer)
        reasons = [by_character[place] for place in _places(text, renderer)]
    reasons += [FIRST] * (len(tokens) - len(reasons))
    named = ["" if weight > 0 else reason for weight, reason in zip(tokens.weights, reasons, strict=True)]
    groups = [(reason, [i for i, _ in run]) for reason, run in groupby(enumerate(named), key=lambda pair: pair[1])]
    decode = renderer.tokenizer.decode
    return Explained([(str(decode(tokens.ids[run].tolist())), reason) for reason, run in groups], left_out)


def _places(text: str, renderer: Renderer) -> list[int]:
    """The last character of a rendered text that each of its tokens writes; white space only where it is all of it.

    Some control tokens take the white space behind them (Phi-3), and some words that before them (sentencepiece).
    """
    if renderer.tokenizer.is_fast:
        found = renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    else:
        ids = renderer.encode(text)
        ends = [min(len(renderer.tokenizer.decode(ids[:count])), len(text)) for count in range(len(ids) + 1)]
        found = list(pairwise(ends))
    return [max(start + (len(text[start:end].rstrip()) or end - start) - 1, 0) for start, end in found]


def _authors(
    text: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], renderer: Renderer
) -> tuple[list[str], list[str]]:
    """The reason for each character of a prompt, and what the template leaves out of it."""
    for trims, looks in product((False, True), repeat=2):  # at what a tool is
        pieces, spoken, described = _marked(messages, tools, trims=trims)
        with suppress(RowError):
            marked = renderer.template(spoken, tools if looks else described, answer_next=True)
            if _MARKS.sub("", marked) == text:
                break
    else:
        return [CONTEXT] * len(text), []
    reach: dict[int, list[int]] = {}
    there, at, behind, owner = set[int](), 0, 0, 0
    for mark in _MARKS.finditer(marked):
        at += mark.start() - behind
        behind = mark.end()
        if mark[1] is not None:
            there.add(int(mark[1]))
            owner = pieces[int(mark[1])][0]
        reach.setdefault(owner, [at, at])[1] = at
    result, reasons = [TEMPLATE] * len(text), [*map(_reason, messages), TOOLS]
    for owner, (start, end) in reach.items():  # what stands between two things that a message says belongs to it
        result[start:end] = [reasons[owner]] * (end - start)
    with suppress(RowError):
        told = renderer.template(messages, tools, answer_next=False)
        if text.startswith(told):
            result[len(told) :] = [PROMPT] * (len(text) - len(told))
    left_out = (name for n, (owner, name) in enumerate(pieces) if n not in there and owner < len(messages))
    return result, list(dict.fromkeys(left_out))


def _marked(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, trims: bool
) -> tuple[list[tuple[int, str]], list[Message], list[Mapping[str, Any]]]:
    """Messages and tools with marks around what they say, for a template that `trims` white space at its ends.

    Of each pair of marks: whose it is (a message's number; behind the last: the tools), and what it is called.
    """
    pieces: list[tuple[int, str]] = []

    def around(value: Any, owner: int, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: around(inner, owner, name) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(around(inner, owner, name) for inner in value)
        if not isinstance(value, str) or not value.strip():
            return value
        pieces.append((owner, name))
        body = value.strip() if trims else value
        before, after = value.split(body, 1)
        return f"{before}{_OPEN}{len(pieces) - 1}{_AT}{body}{_CLOSE}{after}"

    spoken = []
    for number, message in enumerate(messages):
        name = f"message {number + 1} ({message.role})"
        parts = _TAGS.split(message.content)  # templates leave thinking out, so it has marks of its own
        for place in range(0, len(parts), 2):
            parts[place] = around(parts[place], number, f"thinking in {name}" if place % 4 == 2 else name)
        calls = tuple({**c, "function": around(c["function"], number, f"a call in {name}")} for c in message.tool_calls)
        thought = around(message.reasoning, number, f"thinking in {name}")
        spoken.append(replace(message, content="".join(parts), reasoning=thought, tool_calls=calls))
    return pieces, spoken, [{**t, "function": around(t["function"], len(messages), "a tool")} for t in tools]


def _reason(message: Message) -> str:
    if message.role == "assistant" and message.weight > 0:
        return ELSEWHERE
    return TURNS.get(message.role, f"{message.role} turn")
