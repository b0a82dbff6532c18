"""New rows of a run: of its training rows only, each in the ledger, which adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

from tests.data.test_processor import lines

Write = Callable[..., Path]


def unlike(count: int) -> list[dict[str, str]]:
    """Questions that have little in common."""
    words = ["".join(Random(n).sample(ascii_lowercase, 12)) for n in range(count)]
    return [{"prompt": f"What is {word} {word[::-1]}?", "completion": f"It is {word}."} for word in words]


def test_rows_are_made_of_training_rows_only_and_the_ledger_adds_up(prepare: Any, write_rows: Write) -> None:
    rows = unlike(40)
    config = {"held_out": 0.3, "augment": [{"type": "recombination", "modes": ["dialogue"], "copies": 2}]}
    plain, data = prepare(write_rows(rows), held_out=0.3), prepare(write_rows(rows), **config)
    assert lines(data.held_out) == lines(plain.held_out)
    assert lines(data.train[: len(plain.train)]) == lines(plain.train)
    made = data.train[len(plain.train) :]
    entries = [entry for entry in data.ledger.entries if entry.method]
    assert len(made) == len(entries) > 20 and {entry.method for entry in entries} == {"recombination: dialogue"}
    assert [(e.line, e.side, e.content_id) for e in entries] == [(e.origin.line, "train", e.content_id) for e in made]
    held = {example.content.messages[0].content for example in data.held_out}
    assert not held & {turn.content for example in made for turn in example.content.messages}
    summary = data.ledger.summary()
    assert summary["read"] == 40 and summary["made"] == len(made)
    assert sum(summary[o] for o in ("kept", "dropped", "truncated", "split")) == 40 + len(made)
    assert summary["refused"] == data.ledger.refused.total() == 2 * len(plain.train) - len(made)
    assert '"refused": {"' in "".join(data.ledger.to_json())
    again = prepare(write_rows(rows), **config).train
    assert [e.content_id for e in again] == [e.content_id for e in data.train]


def test_what_is_held_out_is_not_made(prepare: Any, write_rows: Write) -> None:
    rows = [{"prompt": f"What is {word}?", "completion": f"It is {word}."} for word in ("ice", "fog")]
    one, held = write_rows(rows), [{"prompt": "What is ice?\nWhat is fog?", "completion": "It is another thing."}]
    config = {"augment": [{"type": "recombination", "modes": ["questions"]}]}
    assert prepare(one, **config).ledger.summary()["made"] == 2
    data = prepare(one, held_out=[str(write_rows(held, "held.jsonl"))], **config)
    assert data.ledger.summary()["made"] == 1 and data.ledger.refused == {"held-out": 1}


def test_made_rows_that_are_too_long_or_cannot_be_learnt_are_refused(prepare: Any, write_rows: Write) -> None:
    """They are nobody's to shorten, so that no run is refused for them."""
    rows = [{"prompt": f"What is {n}?", "completion": "word " * 20 + str(n)} for n in range(4)]
    data = prepare(
        write_rows(rows), max_length=100, augment=[{"type": "recombination", "modes": ["dialogue"]}], guard=[]
    )
    assert (len(data.train), data.ledger.rows_made, data.ledger.refused["over-length"]) == (4, 0, 4)


def test_made_rows_have_the_weight_of_their_parents(prepare: Any, write_rows: Write) -> None:
    rows = write_rows(unlike(30))
    config = {"augment": [{"type": "recombination", "modes": ["dialogue"]}], "guard": []}
    assert Counter(
        Counter(e.content_id for e in prepare({"path": str(rows), "weight": 2}, **config).train).values()
    ) == {2: 60}
    data = prepare({"path": str(rows), "weight": 0.5}, **config)
    left = {e.line for e in data.ledger.entries if e.reason == "weight"}
    assert (
        left
        and not left & {e.line for e in data.ledger.entries if e.method}
        and data.ledger.rows_made == 30 - len(left)
    )


def test_no_turn_of_a_held_out_conversation_comes_back(prepare: Any, write_rows: Write) -> None:
    words = ("ice", "fog", "tea")
    turns = [[{"role": "user", "content": f"What is {word}?"}, {"role": "assistant", "content": f"It is {word}."}]
             for word in words]  # fmt: skip
    held = write_rows([{"messages": [turn for pair in turns for turn in pair]}], "held.jsonl")
    rows = write_rows([{"messages": pair} for pair in turns[:2]] + [{"messages": m} for m in _other()])
    augment = [{"type": "recombination", "modes": ["dialogue"], "copies": 3}]
    data = prepare(rows, held_out=[str(held)], augment=augment)
    made = [example for example in data.train if len(example.content.messages) > 2]
    asked = {turn.content for example in made for turn in example.content.messages if turn.role == "user"}
    assert made and not asked & {f"What is {word}?" for word in words}
    assert data.ledger.refused["held-out"] >= 2


def _other() -> list[list[dict[str, str]]]:
    asked = "Tell me what you know of {}, in a few words and from the beginning."
    return [[{"role": "user", "content": asked.format(row["prompt"][8:])},
             {"role": "assistant", "content": row["completion"]}] for row in unlike(6)]  # fmt: skip
