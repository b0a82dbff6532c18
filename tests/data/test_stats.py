"""Numbers of a source against what is counted by hand, and packing against its definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config import SourceConfig
from luthier.data.render import Renderer
from luthier.data.stats import BATCH, Packing, draw, packings, stats
from luthier.errors import DataError
from tests.conftest import chat_rows

BAD = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]}
REFUSED = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<|im_end|>"}]}
SYSTEM = {"messages": [{"role": "system", "content": "Sie sprechen Deutsch."}, *chat_rows(9)[8]["messages"] * 2]}


def test_every_row_is_counted_once(write_rows: Any, tokenizer: Any, tmp_path: Path) -> None:
    write_rows([*chat_rows(6), BAD], "a.jsonl")
    write_rows([SYSTEM, REFUSED, BAD], "b.jsonl")
    render = Renderer(tokenizer)
    found = stats(SourceConfig(path=str(tmp_path)), render)
    assert list(found.files.values()) == [7, 3] and found.bad == {"empty-answer": 2, "control-token": 1}
    assert found.first_bad["empty-answer"] == f"{tmp_path}/a.jsonl:7: message 1 (assistant) says nothing"
    assert found.turns == {2: 6, 5: 1} and found.roles == {"user": 8, "assistant": 8, "system": 1}
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in [*chat_rows(6), SYSTEM]]
    assert list(found.whole) == [len(tokenizer(text.rstrip())["input_ids"]) for text in texts]
    answers = [[m["content"] + "<|im_end|>" for m in row["messages"] if m["role"] == "assistant"]
               for row in [*chat_rows(6), SYSTEM]]  # fmt: skip
    assert list(found.answer) == [sum(len(tokenizer(text)["input_ids"]) for text in said) for said in answers]
    assert [p + a for p, a in zip(found.prompt, found.answer, strict=True)] == list(found.whole)
    said = [sum(len(m["content"]) for m in row["messages"]) + len(row["messages"]) - 1 for row in chat_rows(6)]
    assert list(found.characters)[:6] == said
    assert stats(SourceConfig(path=str(tmp_path), limit=4), render).files.total() == 4


def test_texts_pairs_and_tasks(write_rows: Any, tokenizer: Any) -> None:
    render = Renderer(tokenizer)
    text = stats(SourceConfig(path=str(write_rows([{"text": "Hello there."}], "t.jsonl"))), render)
    assert text.turns == {0: 1} and not text.roles and text.prompt[0] == 1
    pair = {"prompt": "Why?", "chosen": "So it is.", "rejected": "No."}
    two = stats(SourceConfig(path=str(write_rows([pair], "p.jsonl"))), render)
    assert len(two.lengths) == 2 and sum(two.lengths) == two.whole[0]


def test_a_source_without_a_usable_row_is_refused(write_rows: Any, tokenizer: Any) -> None:
    path = str(write_rows([BAD]))
    with pytest.raises(DataError, match=r"no row can be used; .*rows.jsonl:1: message 1 \(assistant\) says nothing"):
        stats(SourceConfig(path=path), Renderer(tokenizer))


def test_packing_by_hand() -> None:
    assert packings([6, 5, 5, 4, 9, 30], [10]) == [Packing(10, 39 / 40, 39 / 60, 1)]
    assert packings([4] * 16 + [8] * BATCH, [8]) == [Packing(8, 1.0, 1.0, 0)]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 50))
def test_no_row_is_fuller_than_full(lengths: list[int], width: int) -> None:
    (found,) = packings(lengths, [width])
    cut = [min(length, width) for length in lengths]
    greedy, rows, left = 0, 0, sorted(cut, reverse=True)
    while left:  # LLaMA-Factory's: into each row the longest that still fits, until none does
        rows, room = rows + 1, width
        for length in list(left):
            if length <= room:
                room -= length
                left.remove(length)
        greedy += width
    assert found.packed == pytest.approx(sum(cut) / greedy)
    assert 0 < found.padded <= 1 and found.longer == sum(length > width for length in lengths)


def test_the_picture(write_rows: Any, tokenizer: Any, tmp_path: Path, recwarn: Any) -> None:
    found = stats(SourceConfig(path=str(write_rows([*chat_rows(30), SYSTEM]))), Renderer(tokenizer))
    draw(found, tmp_path / "s.png", max_length=40, title="rows")
    draw(found, tmp_path / "again.png", max_length=40, title="rows")
    assert (tmp_path / "s.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.png", "rows.jsonl", "s.png"]
    assert json.dumps([str(warning.message) for warning in recwarn if "layout" in str(warning.message)]) == "[]"
