"""Why tokens are masked: what the template itself says of each, over the templates and conversations of `shapes.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import mask
from luthier.data.conversation import Conversation, Message, Task, Text
from luthier.data.mask import Explained, explained, sequences
from luthier.data.render import Renderer
from luthier.errors import RowError
from tests.conftest import build_tokenizer
from tests.data.shapes import CONVERSATIONS, SHAPES
from tests.data.test_render import TEXTS, renderer

TALK = Conversation(
    (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hello?"),
        Message(role="assistant", content="Hm.", weight=0),
        Message(role="user", content="Hello?"),
        Message(role="assistant", content="Yes."),
    )
)


def why(content: Any, render: Renderer) -> list[Explained]:
    return [explained(rendered, talk, render) for rendered, talk in sequences(content, render)]


def under(found: Explained, reason: str) -> str:
    return "|".join(text for text, why in found.pieces if why == reason)


def test_each_masked_span_has_the_reason_that_the_template_gives() -> None:
    (found,) = why(TALK, renderer("chatml"))
    assert found.pieces == [
        ("<|im_start|>system\n", mask.TEMPLATE),
        ("Be brief.", "system turn"),
        ("<|im_end|>\n<|im_start|>user\n", mask.TEMPLATE),
        ("Hello?", "user turn"),
        ("<|im_end|>\n<|im_start|>assistant\n", mask.TEMPLATE),
        ("Hm.", mask.TURNS["assistant"]),
        ("<|im_end|>\n<|im_start|>user\n", mask.TEMPLATE),
        ("Hello?", "user turn"),
        ("<|im_end|>\n", mask.TEMPLATE),
        ("<|im_start|>assistant\n", mask.PROMPT),
        ("Yes.<|im_end|>", ""),
    ]
    assert found.left_out == []


def talks() -> Iterator[tuple[str, str]]:
    yield from ((name, talk) for name, shape in SHAPES.items() for talk in CONVERSATIONS if talk not in shape.refused)


@pytest.mark.parametrize("name", SHAPES)
def test_no_template_hides_where_its_messages_stand(name: str) -> None:
    """Whole text, exact mask, and every user's turn and tool's result under its name, for every shape of row."""
    for talk in (CONVERSATIONS[talk] for shape, talk in talks() if shape == name):
        for rendered, _ in sequences(talk, renderer(name)):
            found = explained(rendered, talk, renderer(name))
            assert mask.CONTEXT not in dict(found.pieces).values()
            ids = rendered.tokens.ids
            assert "".join(text for text, _ in found.pieces) == renderer(name).tokenizer.decode(ids.tolist())
            learnt = renderer(name).tokenizer.decode(ids[rendered.tokens.weights > 0].tolist())
            assert under(found, "").replace("|", "") == learnt.replace("|", "")
            asked = "".join(m.content for m in talk.messages[: rendered.last] if m.role == "user")
            assert squeezed(under(found, "user turn")) == squeezed(asked)


def squeezed(text: str) -> str:
    return "".join(text.replace("|", "").split())


def test_thinking_that_the_template_removes_is_named() -> None:
    first, last = why(CONVERSATIONS["thinking_multi_turn"], renderer("qwen3"))
    assert (first.left_out, last.left_out) == ([], ["thinking in message 2 (assistant)"])
    assert mask.ELSEWHERE in dict(map(reversed, last.pieces))  # type: ignore[arg-type]


def test_tools_are_told_from_the_template() -> None:
    (found,) = why(CONVERSATIONS["tools"], renderer("marked"))
    tool = CONVERSATIONS["tools"].tools[0]["function"]
    assert tool["name"] in under(found, mask.TOOLS)
    assert under(found, "tool result") == next(m.content for m in CONVERSATIONS["tools"].messages if m.role == "tool")


def test_a_template_that_does_other_things_with_other_text_says_only_context() -> None:
    loud = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content|length }} {{ m.content }}<|im_end|>{% endfor %}"
    )
    render = Renderer(build_tokenizer(template=f"{loud}{{% if add_generation_prompt %}}<|im_start|>{{% endif %}}"))
    talk = Conversation((Message(role="user", content="Hello?"), Message(role="assistant", content="Yes.")))
    (found,) = why(talk, render)
    assert {reason for _, reason in found.pieces} == {mask.CONTEXT, ""}


def test_texts_and_tasks() -> None:
    render = renderer("llama2")
    (text,) = why(Text("Hello there"), render)
    assert [reason for _, reason in text.pieces] == [mask.FIRST, ""]
    (task,) = why(Task(Conversation(TALK.messages[1:2])), renderer("chatml"))
    assert task.pieces[-1] == ("<|im_start|>assistant\n", mask.PROMPT) and "" not in dict(map(reversed, task.pieces))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(said=st.lists(TEXTS, min_size=3, max_size=3))
def test_any_text_is_explained_without_changing_it(name: str, said: Sequence[str]) -> None:
    roles = ("user", "assistant", "user", "assistant")
    turns = [Message(role=role, content=text) for role, text in zip(roles, [*said, "Yes."], strict=True)]
    try:
        found = sequences(Conversation(tuple(turns)), renderer(name))
    except RowError:
        return
    for rendered, talk in found:
        told = explained(rendered, talk, renderer(name))
        ids, on = rendered.tokens.ids, rendered.tokens.weights > 0
        parts = np.split(ids, np.flatnonzero(np.diff(on)) + 1)
        supervised = [renderer(name).tokenizer.decode(part.tolist()) for part in parts][1::2]
        assert [text for text, reason in told.pieces if not reason] == supervised


def test_a_tokenizer_without_offsets_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    render = renderer("chatml")
    with_offsets = why(TALK, render)
    monkeypatch.setattr(type(render.tokenizer), "is_fast", False)
    assert why(TALK, render) == with_offsets
