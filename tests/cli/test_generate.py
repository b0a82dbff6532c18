"""Answers to a file of rows: in order, repeatable, and going on after a kill; a chat with tools and its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.inference.hf import HfEngine
from tests.conftest import chat_rows

Command = Callable[..., Any]
DRAWN = ("--temperature", "1.5", "--seed", "3", "--max-new-tokens", "6")


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_answered_and_a_stopped_run_goes_on(
    luthier: Command, tiny: Path, tmp_path: Path, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, whole, cut = write_rows(chat_rows(9)), tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert luthier("generate", rows, "--model", tiny, "-o", whole, *DRAWN).status == 0
    assert [one["line"] for one in told(whole)] == list(range(1, 10)) and told(whole)[1]["prompt"].startswith(
        "What is 1"
    )
    answers, asked = HfEngine.answers, list[int]()

    def killed(self: HfEngine, encoded: Any, sampling: Any, seeds: Any) -> Any:
        for number, found in enumerate(answers(self, encoded, sampling, seeds)):
            if number == 4:
                raise KeyboardInterrupt
            yield found

    def counted(self: HfEngine, encoded: Any, sampling: Any, seeds: Any) -> Any:
        asked.append(len(encoded))
        return answers(self, encoded, sampling, seeds)

    monkeypatch.setattr(HfEngine, "answers", killed)
    assert luthier("generate", rows, "--model", tiny, "-o", cut, *DRAWN).status == 130 and not cut.exists()
    part = tmp_path / "cut.jsonl.part"
    part.write_text(part.read_text(encoding="utf-8") + '{"row": 8, "ans', encoding="utf-8")  # torn by a kill
    refused = luthier("generate", rows, "--model", tiny, "-o", cut)
    assert refused.status == 2 and "another model, other rows or options" in refused.err
    monkeypatch.setattr(HfEngine, "answers", counted)
    assert luthier("generate", rows, "--model", tiny, "-o", cut, *DRAWN).status == 0
    assert asked == [5] and cut.read_bytes() == whole.read_bytes() and not part.exists()


def test_prompts_are_answered_and_texts_are_not(luthier: Command, tiny: Path, tmp_path: Path, write_rows: Any) -> None:
    out = tmp_path / "out.jsonl"
    rows = write_rows([{"prompt": "Why?"}, {"prompt": [{"role": "user", "content": "How?"}]}])
    assert luthier("generate", rows, "--model", tiny, "-o", out, "--max-new-tokens", "2").status == 0
    assert [one["prompt"] for one in told(out)] == ["Why?", "How?"]
    refused = luthier("generate", write_rows([{"text": "So it goes."}]), "--model", tiny, "-o", out)
    assert refused.status == 2 and "rows.jsonl:1: asks nothing" in refused.err


def test_a_chat_shows_calls_and_what_the_base_says(
    luthier: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "clock", "parameters": {"type": "object"}}]', encoding="utf-8")
    heard: list[Any] = []

    def stream(self: HfEngine, prompt: Any, sampling: Any) -> Any:
        heard.append([message.content for message in prompt.messages])
        yield from ("<tool_call>", '{"name": "clock", "arguments": {"zone": "UTC"}}', "</tool_call>")

    typed = iter(["/compare base", "one", "/compare base"])
    monkeypatch.setattr(HfEngine, "stream", stream)
    monkeypatch.setattr("builtins.input", lambda prompt="": next(typed, "/exit"))
    said = luthier("chat", tiny, "--tools", tools)
    assert said.out.startswith("nothing was asked yet\n") and said.out.count('\n-> clock({"zone": "UTC"})\n') == 2
    assert heard == [["one"], ["one"]]
    assert luthier("chat", tiny, "--tools", tmp_path / "none.json", "--prompt", "x").status == 2
