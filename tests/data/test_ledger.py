"""The ledger: every row has one outcome, every row that is not kept whole a reason, and nothing goes missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config import DataConfig
from luthier.data.clean.base import Drop
from luthier.data.conversation import Origin
from luthier.data.ledger import Entry, Ledger
from luthier.data.processor import DataProcessor, Prepared
from luthier.data.render import Renderer
from luthier.errors import DataError
from luthier.objectives.sft import Sft

OUTCOMES = ("kept", "dropped", "truncated", "split")


def filled() -> Ledger:
    ledger = Ledger()
    for line, outcome in enumerate(("kept", "kept", "truncated", "split"), 1):
        ledger.read()
        reason = "" if outcome == "kept" else "over-length"
        ledger.record(Entry("a.json", line, "train", outcome, reason, content_id="c0", sequences=line, tokens=9))
    for reason in ("empty-answer", "empty-answer", "bad-message"):
        ledger.read()
        drop = Drop(reason, 1.0, 1.0, "says nothing \u00e9\u4f60", readable=False)
        ledger.judge(Origin("b.json", 7), drop, side="held_out")
    return ledger


def test_counts_by_outcome_and_side() -> None:
    ledger = filled()
    ledger.close()
    assert ledger.summary() == {"read": 7, "kept": 2, "dropped": 3, "truncated": 1, "split": 1}
    assert ledger.count("kept", "train") == 2 and ledger.count("kept", "held_out") == 0
    assert ledger.count("dropped", "held_out") == 3 and ledger.count("dropped", "train") == 0
    assert list(ledger.reasons().items()) in (
        [("empty-answer", 2), ("over-length", 2), ("bad-message", 1)],
        [("over-length", 2), ("empty-answer", 2), ("bad-message", 1)],
    )


def test_a_missing_or_doubled_row_is_told() -> None:
    ledger = filled()
    ledger.read()
    with pytest.raises(DataError, match="does not add up: 8 read, 7 accounted for"):
        ledger.close()
    ledger.record(next(ledger.entries))
    ledger.close()
    ledger.record(next(ledger.entries))
    with pytest.raises(DataError, match="does not add up: 8 read, 9 accounted for"):
        ledger.close()


def test_rows_json() -> None:
    told = json.loads("".join(filled().to_json()))
    assert told["summary"] == filled().summary() and told["reasons"] == filled().reasons()
    first = {"file": "a.json", "line": 1, "side": "train", "outcome": "kept", "content_id": "c0"}
    assert told["rows"][0] == first | {"sequences": 1, "tokens": 9}
    dropped = {"file": "b.json", "line": 7, "side": "held_out", "outcome": "dropped", "reason": "bad-message"}
    assert told["rows"][-1] == dropped | {"detail": "says nothing \u00e9\u4f60"}
    assert (
        len("".join(filled().to_json()).splitlines()) == len(told["rows"]) + 4
    )  # a line for each row, for grep and diff
    assert json.loads("".join(Ledger().to_json())) == {"summary": Ledger().summary(), "reasons": {}, "rows": []}


# ---- through the processor: any mixture of rows ------------------------------------------------------------------


def talk(question: str, answer: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


GOOD = st.builds(
    lambda i, n: talk(f"What is {i}?", f"It is {i}." + " And so on." * n), st.integers(0, 9), st.integers(0, 9)
)
BAD = st.sampled_from(
    [
        (talk("Why?", ""), "empty-answer"),
        (talk("Why?", "Why?"), "identical-pair"),
        (talk("Why?", 5), "bad-message"),
        (talk("Why?", "Stop <|im_end|> here."), "control-token"),
        (talk("Why?" * 60, "Because."), "kept or over-length or no-supervised-token"),
        ({"messages": talk("Why?", "So.")["messages"][:1]}, "no-assistant"),
        ({"messages": []}, "wrong-layout"),
        (None, "wrong-layout"),
        ({"messages": [talk("Why?", "")["messages"][1] | {"train": False}]}, "no-supervised-token"),
    ]
)


def prepared(path: Path, tokenizer: Any, **options: Any) -> Prepared:
    return DataProcessor().prepare(DataConfig(train=[str(path)], **options), Renderer(tokenizer), Sft())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(GOOD, min_size=8, max_size=12),
    st.lists(BAD, max_size=7),
    st.randoms(use_true_random=False),
    st.sampled_from(["error", "drop", "truncate", "split"]),
    st.sampled_from([0.0, 0.3, "file"]),
)
def test_the_sums_hold_for_any_mixture_of_rows(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Any,
    good: list[Any],
    bad: list[Any],
    random: Any,
    over_length: str,
    held_out: Any,
) -> None:
    mixed = [(row, "") for row in good] + bad
    random.shuffle(mixed)
    path = tmp_path_factory.getbasetemp() / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in mixed))
    held = [str(path)] if held_out == "file" else held_out
    count = len(mixed) * (2 if held_out == "file" else 1)
    try:
        data = prepared(path, tokenizer, over_length=over_length, max_length=40, held_out=held)
    except DataError as error:  # every good row may be too long, or held out
        assert str(error).startswith(f"no row is left to train on ({count} read; ")
        return
    ledger = data.ledger
    assert sum(ledger.count(outcome) for outcome in OUTCOMES) == ledger.summary()["read"] == count  # type: ignore[arg-type]
    assert sorted(e.line for e in ledger.entries) == sorted([*range(1, len(mixed) + 1)] * (count // len(mixed)))
    used = {(str(e.origin), s) for s in ("train", "held_out") for e in getattr(data, s)}
    assert used == {(f"{e.file}:{e.line}", e.side) for e in ledger.entries if e.outcome != "dropped"}
    assert len(data.train) + len(data.held_out) == count - ledger.count("dropped")
    for entry in ledger.entries:
        assert entry.file == str(path) and entry.side
        assert bool(entry.reason) == (entry.outcome != "kept")
        assert bool(entry.detail) == (entry.outcome != "kept")
        assert bool(entry.tokens and entry.sequences) == (entry.outcome != "dropped")
        assert entry.content_id or entry.outcome == "dropped"
        expected = mixed[entry.line - 1][1]
        assert entry.reason in (expected, "over-length", "no-supervised-token") or "kept" in expected
        assert not expected or "kept" in expected or entry.outcome == "dropped"
    told = json.loads("".join(ledger.to_json()))
    assert told["summary"] == ledger.summary() and len(told["rows"]) == count
    for outcome in OUTCOMES:
        assert sum(row["outcome"] == outcome for row in told["rows"]) == told["summary"][outcome]
    assert sum(told["reasons"].values()) == sum("reason" in row for row in told["rows"])
