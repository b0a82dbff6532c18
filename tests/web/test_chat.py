"""A talk of the page as a model sees it, and what becomes of a thumb."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")
import gradio as gr

from luthier.web import chat
from luthier.web.board import Board
from luthier.web.texts import Speaker

TOOLS = '[{"name": "weather", "parameters": {"type": "object"}}]'
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


def said(*texts: str) -> list[dict[str, Any]]:
    """A talk, as the page holds it."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr("gradio.Info", lambda _: None)
    return Board(tmp_path, None, Speaker("en"))


def like(board: Board, mine: Any, other: Any, value: Any, place: int = 1, tools: str = "") -> list[dict[str, Any]]:
    thumb: Any = SimpleNamespace(index=place, liked=value)
    chat._like(board, mine, other, "", tools, thumb)
    return [json.loads(line) for line in (board.folder / chat.LIKED).read_text(encoding="utf-8").splitlines()]


def test_what_is_said_to_a_call_is_its_result() -> None:
    talk = chat._talk(said("Rain?", f"I look.{CALL}", "It rains.", "Yes."), "Be brief.", TOOLS)
    assert [one.role for one in talk.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = talk.messages[2].tool_calls[0]["function"]
    assert (call["name"], call["arguments"], talk.messages[2].content) == ("weather", {"city": "Bern"}, "I look.")
    assert talk.tools[0]["function"]["name"] == "weather"
    plain = chat._talk(said("Rain?", CALL, "Why?"), " ", "")
    assert [one.role for one in plain.messages] == ["user", "assistant", "user"] and not plain.tools


def test_the_last_word_counts(board: Board) -> None:
    """The better answer is chosen; another thumb to the same two answers replaces it; one taken back leaves nothing."""
    mine, other = said("Hi", "good"), said("Hi", [{"type": "text", "text": "bad"}])  # type: ignore[arg-type]
    (row,) = like(board, mine, other, True)
    assert (row["prompt"], row["chosen"][0]["content"]) == ([{"role": "user", "content": "Hi"}], "good")
    (row,) = like(board, mine, other, False)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("bad", "good")
    assert len(like(board, said("Hi", "good"), said("Hi", "worse"), True)) == 2
    assert len(like(board, mine, other, "")) == 1


def test_answers_to_different_words_are_not_compared(board: Board) -> None:
    for mine, other, place in (
        (said("Hi", "a", "Why?", "b"), said("Hi", "c", "Why?", "d"), 3),
        (said("Hi", "a"), said("Hi", "a"), 1),
        (said("Hi", "a"), [], 1),
        ([*said("Hi"), {"role": "assistant", "content": "a", "metadata": chat.COMING}], said("Hi", "b"), 1),
    ):
        with pytest.raises(gr.Error):
            like(board, mine, other, True, place)
    assert not (board.folder / chat.LIKED).exists()


def test_what_is_kept_is_rows_to_train_on(board: Board) -> None:
    from luthier.data.conversation import Preference
    from tests.data.test_formats import read

    kept = like(board, said("Rain?", f"I look.{CALL}"), said("Rain?", "No."), True, tools=TOOLS)
    found = read("preference", kept[0])
    assert isinstance(found, Preference) and found.chosen.messages[-1].tool_calls and found.chosen.tools
