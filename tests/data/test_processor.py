"""The data processor: files to rendered rows on two sides, over-long rows as the config says, all told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config import DataConfig, SourceConfig
from luthier.data.conversation import Conversation
from luthier.data.making import fit
from luthier.data.processor import DataProcessor, Prepared
from luthier.data.render import Renderer, Tokens
from luthier.errors import AmbiguousFormat, DataError, RowError
from luthier.objectives.pretrain import Pretrain
from luthier.objectives.sft import Sft
from luthier.plugins import UnknownPart
from tests.conftest import chat_rows

Write = Callable[..., Path]
LONG = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because it rains. " * 40}]}
ASKED_LONG = {"messages": [{"role": "user", "content": "Why? " * 99}, {"role": "assistant", "content": "So."}]}


def lines(examples: Sequence[Any]) -> list[int]:
    return [example.origin.line for example in examples]


def supervised_text(data: Prepared, tokenizer: Any, row: int = 0) -> list[str]:
    return [tokenizer.decode(t.ids[t.weights > 0]) for t in data.train[row].sequences]


# ---- reading -----------------------------------------------------------------------------------------------------


def test_rows_in_order_with_their_content(prepare: Any, write_rows: Write, tokenizer: Any) -> None:
    data = prepare(write_rows(chat_rows(5)))
    assert lines(data.train) == [1, 2, 3, 4, 5] and data.held_out == []
    assert data.ledger.summary() == {"read": 5, "kept": 5, "dropped": 0, "truncated": 0, "split": 0}
    assert [(e.side, e.outcome, e.sequences, e.tokens, e.content_id) for e in data.ledger.entries] == [
        ("train", "kept", 1, example.tokens, example.content_id) for example in data.train
    ]
    assert str(data.readings[0]).endswith("rows.jsonl: 5 rows, format messages (recognised)")
    assert isinstance(data.train[3].content, Conversation)
    assert supervised_text(data, tokenizer, 3) == [data.train[3].content.messages[1].content + "<|im_end|>"]


def test_sources_of_several_layouts(prepare: Any, write_rows: Write) -> None:
    first = write_rows(chat_rows(3), "first.jsonl")
    second = write_rows(
        [{"instruction": f"Say {i}.", "output": f"{i}!", "text": "?"} for i in range(4)], "second.jsonl"
    )
    data = prepare(first, {"path": str(second), "format": "alpaca", "limit": 2})
    assert [(Path(e.origin.file).name, e.origin.line) for e in data.train] == [
        ("first.jsonl", 1), ("first.jsonl", 2), ("first.jsonl", 3), ("second.jsonl", 1), ("second.jsonl", 2)
    ]  # fmt: skip
    assert [(r.format, r.recognised, r.rows) for r in data.readings] == [("messages", True, 3), ("alpaca", False, 2)]
    assert str(data.readings[1]).endswith("second.jsonl: 2 rows, format alpaca (as the config says)")


def test_limit_reads_the_first_rows_only(prepare: Any, write_rows: Write) -> None:
    path = write_rows([*chat_rows(3), *[{"other": 1}] * 9])
    assert lines(prepare({"path": str(path), "limit": 3}).train) == [1, 2, 3]
    assert prepare({"path": str(path), "limit": 3}).ledger.rows_read == 3


def test_columns_by_other_names(prepare: Any, write_rows: Write, tokenizer: Any) -> None:
    """Of one file; the format is recognised in what the columns are read as."""
    path = write_rows([{"ask": f"Say {i}.", "reply": f"{i}!", "instruction": "?"} for i in range(3)])
    columns = {"instruction": "ask", "output": "reply"}
    data = prepare({"path": str(path), "columns": columns})
    assert data.readings[0].format == "alpaca" and data.readings[0].recognised
    assert [e.content.messages[0].content for e in data.train] == ["Say 0.", "Say 1.", "Say 2."]
    assert supervised_text(data, tokenizer, 0) == ["0!<|im_end|>"]
    with pytest.raises(DataError, match="no row has the key 'replly'; did you mean 'reply'"):
        prepare({"path": str(path), "columns": {"output": "replly"}})


def test_a_wrong_format_name(prepare: Any, write_rows: Write) -> None:
    with pytest.raises(UnknownPart, match=r"unknown format 'sharegtp'; did you mean 'sharegpt'\? allowed: alpaca,"):
        prepare({"path": str(write_rows(chat_rows(2))), "format": "sharegtp"})


def test_a_file_of_two_layouts_needs_a_name(prepare: Any, write_rows: Write) -> None:
    path = write_rows([{"instruction": "Say 1.", "output": "1!", "text": "?"}])
    with pytest.raises(AmbiguousFormat, match="more than one format"):
        prepare(path)
    assert len(prepare({"path": str(path), "format": "alpaca"}).train) == 1


@pytest.mark.parametrize("content", ["[]", "{}", "", '{"other": 1}'])
def test_files_without_rows(prepare: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "none.json").write_text(content)
    with pytest.raises(DataError, match=r"none\.json: (the file|no format)"):
        prepare(tmp_path / "none.json")


# ---- sides -------------------------------------------------------------------------------------------------------


def test_a_share_is_held_out(prepare: Any, write_rows: Write) -> None:
    rows = chat_rows(40)
    data = prepare(write_rows([*rows, *rows[:5]]), held_out=0.2)
    assert sorted(lines(data.train) + lines(data.held_out)) == list(range(1, 46))
    assert 2 <= len(data.held_out) <= 16
    assert not {e.content_id for e in data.train} & {e.content_id for e in data.held_out}
    assert [e.side for e in data.ledger.entries] == [
        "train" if e.line in lines(data.train) else "held_out" for e in data.ledger.entries
    ]


def test_held_out_files_are_used_as_such(prepare: Any, write_rows: Write) -> None:
    train, held = write_rows(chat_rows(6), "train.jsonl"), write_rows([*chat_rows(3), LONG, {"bad": 1}], "held.jsonl")
    source = SourceConfig(path=str(held), format="messages")
    data = prepare(train, held_out=[source], max_length=120, over_length="drop")
    assert {e.origin.file for e in data.train} == {str(train)} and lines(data.train) == [1, 2, 3, 4, 5, 6]
    assert {e.origin.file for e in data.held_out} == {str(held)} and lines(data.held_out) == [1, 2, 3]
    dropped = {(e.line, e.side, e.reason) for e in data.ledger.entries if e.outcome == "dropped"}
    assert dropped == {(4, "held_out", "over-length"), (5, "held_out", "wrong-layout")}
    assert data.ledger.summary()["read"] == 11 and len(data.readings) == 2


# ---- over-long rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over_length", "outcome", "kept"),
    [
        ("error", "kept", [1, 2]),
        ("drop", "dropped", [1]),
        ("truncate", "truncated", [1, 2]),
        ("split", "split", [1, 2]),
    ],
)
def test_over_long_rows(
    prepare: Any, write_rows: Write, tokenizer: Any, over_length: str, outcome: str, kept: list[int]
) -> None:
    path = write_rows([chat_rows(1)[0], LONG])
    whole = prepare(path, over_length="error", max_length=64).train[1].sequences[0]
    assert len(whole) > 3 * 64  # passes, for the check before training to refuse
    data = prepare(path, over_length=over_length, max_length=64)
    assert lines(data.train) == kept
    entry = list(data.ledger.entries)[1]
    assert (entry.line, entry.outcome) == (2, outcome)
    if outcome == "truncated":
        assert entry.detail.startswith(f"{len(whole) - 64} of {len(whole)} tokens were left out, ")
    assert (entry.reason, bool(entry.detail)) == ("" if outcome == "kept" else "over-length", outcome != "kept")
    if outcome == "dropped":
        assert entry.detail == f"{len(whole)} tokens, data.max_length is 64"
        return
    pieces = data.train[1].sequences
    assert (entry.sequences, entry.tokens) == (len(pieces), sum(len(piece) for piece in pieces))
    ids = np.concatenate([piece.ids for piece in pieces])
    assert ids.tolist() == whole.ids[: len(ids)].tolist()
    assert len(ids) == (64 if outcome == "truncated" else len(whole))
    if outcome == "split":
        assert all(len(piece) == 64 for piece in pieces[:-1]) and len(pieces) == -(-len(whole) // 64)
    assert not any(piece.weights[0] for piece in pieces)


@pytest.mark.parametrize(("over_length", "reason"), [("drop", "over-length"), ("truncate", "no-supervised-token")])
def test_a_question_too_long_for_its_answer(prepare: Any, write_rows: Write, over_length: str, reason: str) -> None:
    data = prepare(write_rows([chat_rows(1)[0], ASKED_LONG]), over_length=over_length, max_length=64)
    entry = list(data.ledger.entries)[1]
    assert (entry.outcome, entry.reason, entry.line) == ("dropped", reason, 2)
    assert "64" in entry.detail
    assert prepare(write_rows([ASKED_LONG]), over_length="split", max_length=64).train[0].supervised > 0


WEIGHTS = st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.5]), min_size=1, max_size=30)


@settings(deadline=None, max_examples=200)
@given(st.lists(WEIGHTS, max_size=3), st.integers(1, 12), st.sampled_from(["error", "drop", "truncate", "split"]))
def test_fit(columns: list[list[float]], limit: int, over_length: str) -> None:
    sequences = [
        Tokens(np.arange(len(weights), dtype=np.int32), np.asarray([0, *weights[1:]], dtype=np.float32))
        for weights in columns
    ]
    before = [sequence.weights.tolist() for sequence in sequences]
    config = DataConfig.model_validate({"train": ["x"], "max_length": limit, "over_length": over_length})
    long = any(len(sequence) > limit for sequence in sequences)
    left = 0
    for weights in before:
        for place, weight in enumerate(weights):
            cut = long and over_length == "truncate" and place >= limit
            begins = long and over_length == "split" and place % limit == 0  # a piece's first token has no predictor
            left += weight > 0 and not cut and not begins
    if (long and over_length == "drop") or not left:
        with pytest.raises(RowError) as caught:
            fit(sequences, config)
        assert caught.value.reason == ("over-length" if long and over_length == "drop" else "no-supervised-token")
        return
    kept, outcome = fit(sequences, config)
    assert sum(sequence.supervised for sequence in kept) == left
    assert kept and all(sequence.supervised and sequence.weights[0] == 0 for sequence in kept)
    assert outcome == ({"truncate": "truncated", "split": "split"}.get(over_length, "kept") if long else "kept")
    assert over_length == "error" or all(len(sequence) <= limit for sequence in kept)
    assert [sequence.weights.tolist() for sequence in sequences] == before  # what was given is not changed
    known = [sequence.ids.tolist() for sequence in sequences]
    assert all(any(piece.ids.tolist() == ids[piece.ids[0] :][: len(piece)] for ids in known) for piece in kept)


# ---- nothing left, and what objectives make of rows --------------------------------------------------------------


def test_no_row_left(prepare: Any, write_rows: Write) -> None:
    """Says why, and names the first row that was meant for training; a bad held-out row is not the reason."""
    path, held = write_rows([LONG, LONG]), write_rows([{"messages": []}, *chat_rows(3)], "held.jsonl")
    with pytest.raises(DataError) as caught:
        prepare(path, over_length="drop", max_length=120, held_out=[str(held)])
    assert str(caught.value).startswith(
        f"no row is left to train on (6 read; 2 x over-length, 1 x wrong-layout); first: {path}:1: "
    )
    assert str(caught.value).endswith("tokens, data.max_length is 120")


def test_a_row_that_goes_missing_is_told(write_rows: Write, tokenizer: Any) -> None:
    class Forgetful(DataProcessor):
        def read(self, sources: Any, rows: Any, *arguments: Any, **options: Any) -> None:
            super().read(sources, rows, *arguments, **options)
            rows.table.execute("DELETE FROM row WHERE place = 3")
            rows.count -= 1

    config = DataConfig(train=[SourceConfig(path=str(write_rows(chat_rows(4))))], held_out=0.0)
    with pytest.raises(DataError, match="does not add up: 4 read, 3 accounted for"):
        Forgetful().prepare(config, Renderer(tokenizer), Sft())


def test_plain_text_needs_the_pretrain_objective(prepare: Any, write_rows: Write) -> None:
    with pytest.raises(DataError, match=r"2 x wrong-content\); first: .*rows\.jsonl:1: .*use objective: pretrain"):
        prepare(write_rows(["Once upon a time.", "There was a model."]))


@pytest.mark.parametrize("row", ["Once upon a time.", {"text": "Once upon a time."}])
def test_pretrain_learns_every_token_of_a_text(prepare: Any, write_rows: Write, tokenizer: Any, row: Any) -> None:
    (sequence,) = prepare(write_rows([row, row]), objective=Pretrain()).train[0].sequences
    assert tokenizer.decode(sequence.ids) == "Once upon a time.<|im_end|>"
    assert sequence.weights.tolist() == [0.0] + [1.0] * (len(sequence) - 1)


def test_sft_and_pretrain_see_the_same_conversation(prepare: Any, write_rows: Write, tokenizer: Any) -> None:
    path = write_rows(chat_rows(1))
    sft, pretrain = prepare(path), prepare(path, objective=Pretrain())
    text = "<|im_start|>user\nWhat is 0 and 0?<|im_end|>\n<|im_start|>assistant\nIt is 0.<|im_end|>"
    assert tokenizer.decode(sft.train[0].sequences[0].ids) == text
    assert tokenizer.decode(pretrain.train[0].sequences[0].ids) == text + "\n"
    assert supervised_text(sft, tokenizer) == ["It is 0.<|im_end|>"]
    assert pretrain.train[0].supervised == pretrain.train[0].tokens - 1
    assert sft.train[0].content_id == pretrain.train[0].content_id


def test_the_weight_of_a_turn_reaches_its_tokens(prepare: Any, write_rows: Write, tokenizer: Any) -> None:
    """Only assistant turns are learnt, whatever weight another turn has."""
    turns = [
        {"role": "user", "content": "One?", "weight": 3},
        {"role": "assistant", "content": "Two.", "weight": 0.25},
        {"role": "user", "content": "And?", "weight": 0},
        {"role": "assistant", "content": "Three.", "train": False},
        {"role": "user", "content": "Then?"},
        {"role": "assistant", "content": "Four."},
    ]
    data = prepare(write_rows([{"messages": turns}]))
    (sequence,) = data.train[0].sequences
    assert set(sequence.weights.tolist()) == {0.0, 0.25, 1.0}
    assert tokenizer.decode(sequence.ids[sequence.weights == 0.25]) == "Two.<|im_end|>"
    assert tokenizer.decode(sequence.ids[sequence.weights == 1]) == "Four.<|im_end|>"


class Nothing:
    joint = False
    online = False

    def sequences(self, content: Any, renderer: Any) -> list[Tokens]:
        return []


def test_rows_from_an_objective_of_ones_own(write_rows: Write, tokenizer: Any) -> None:
    config = DataConfig(train=[SourceConfig(path=str(write_rows(chat_rows(3))))], held_out=0.0)
    with pytest.raises(DataError, match="3 x no-supervised-token"):
        DataProcessor().prepare(config, Renderer(tokenizer), Nothing())


# ---- cleaning, and rows that count more than once ----------------------------------------------------------------


def pairs(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"prompt": asked, "completion": answer} for asked, answer in said]


def test_rows_are_cleaned_before_they_are_split(prepare: Any, write_rows: Write) -> None:
    rows = write_rows(pairs(("a?", "cafÃ©"), ("b?", "As an AI, no."), ("a?", "cafÃ©"), ("c?", ""), ("d?", "yes")))
    data = prepare(rows, clean=["repair", "quality", "duplicates"])
    assert lines(data.train) == [1, 5] and data.train[0].content.messages[1].content == "café"
    dropped = [(e.line, e.reason, e.cleaned, e.threshold) for e in data.ledger.entries if e.outcome == "dropped"]
    assert dropped == [(2, "refusal", True, 1.0), (3, "duplicate", True, 1.0), (4, "empty-answer", False, 0.0)]
    assert [(e.line, e.mended) for e in data.ledger.entries if e.outcome == "kept"] == [(1, "repair"), (5, "")]
    assert data.ledger.summary()["read"] == 5


def test_training_rows_that_held_out_files_hold_are_dropped(prepare: Any, write_rows: Write) -> None:
    train = write_rows(pairs(("a?", "one"), ("b?", "two"), ("c?", "three")), "train.jsonl")
    held = write_rows(pairs(("B", "Two."), ("B", "Two."), ("d?", "four")), "held.jsonl")
    data = prepare(train, held_out=[str(held)], clean=["duplicates"])
    assert lines(data.train) == [1, 3] and lines(data.held_out) == [1, 2, 3]  # what is measured on stays whole
    entry = next(e for e in data.ledger.entries if e.outcome == "dropped")
    assert entry.detail == f"says what {held}:1 says" and entry.side == "train"


def test_what_one_file_says_another_does_not_repeat(prepare: Any, write_rows: Write) -> None:
    first = write_rows(pairs(("a?", "one")), "first.jsonl")
    second = write_rows(
        [{"instruction": "a?", "output": "one"}, {"instruction": "b?", "output": "two"}], "second.jsonl"
    )
    data = prepare(first, second, clean=["duplicates"])
    assert [(Path(e.origin.file).name, e.origin.line) for e in data.train] == [("first.jsonl", 1), ("second.jsonl", 2)]


@pytest.mark.parametrize(("weight", "fewest", "most"), [(0.5, 60, 140), (1, 200, 200), (2, 400, 400), (2.25, 420, 480)])
def test_weights_are_how_often_rows_are_seen(
    prepare: Any, write_rows: Write, weight: float, fewest: int, most: int
) -> None:
    rows = write_rows(pairs(*((f"{n}?", f"{n}.") for n in range(200))))
    data = prepare({"path": str(rows), "weight": weight})
    assert fewest <= len(data.train) <= most
    assert lines(data.train) == lines(prepare({"path": str(rows), "weight": weight}).train)
    left_out = [e.line for e in data.ledger.entries if e.reason == "weight"]
    assert sorted([*left_out, *set(lines(data.train))]) == list(range(1, 201))
    assert set(Counter(lines(data.train)).values()) <= {int(weight), int(weight) + 1}
    whole = prepare({"path": str(rows), "weight": weight}, held_out=0.2)
    assert len(whole.held_out) == len(set(lines(whole.held_out)))  # what is measured counts once
