"""Perplexity and difficulty: their definitions in plain transformers, what goes, and what cannot be measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.curate.likelihood import Ifd, Perplexity, answered, unasked
from luthier.data.clean.base import Said, said
from luthier.data.conversation import Content, Conversation, Labelled, Message, Preference, Task, Text
from luthier.errors import ModelError
from luthier.models.catalogue import entries
from tests.curate.conftest import talk

REAL = "smollm2-135m-instruct"
SYSTEM = Message(role="system", content="Be brief.")


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Any:
    """What plain transformers says: the perplexity of what follows a prompt, each as text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny).eval(), AutoTokenizer.from_pretrained(tiny)

    def perplexity(prompt: str, answer: str) -> float:
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        ids = torch.tensor([before + after])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        wanted = [float(logprobs[place - 1, ids[0, place]]) for place in range(len(before), ids.shape[1])]
        return math.exp(-sum(wanted) / len(wanted))

    return perplexity


def turns(*texts: str) -> str:
    return "".join(
        f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(texts[::2], texts[1::2], strict=True)
    )


START = "<|im_start|>assistant\n"


def looked(cleaner: Any, *contents: Content) -> list[Any]:
    return list(cleaner.build().look([said(content, "x:1") for content in contents]))


def test_both_are_their_definitions(tiny: Path, plain: Any) -> None:
    """Also behind a system prompt, among rows of other lengths, for the better of two answers and for texts."""
    row, other = talk("What is a model?", "A config file."), talk("Why?", "It rains in London, again and again.")
    with_system = Conversation((SYSTEM, *row.messages))
    contents = [row, other, with_system, Preference(row, other), Labelled(row, wanted=False)]
    asked = Task(Conversation(row.messages[:1]), "A config file.")
    given = [
        plain(turns("user", "What is a model?") + START, "A config file.<|im_end|>"),
        plain(turns("user", "Why?") + START, "It rains in London, again and again.<|im_end|>"),
        plain(turns("system", "Be brief.", "user", "What is a model?") + START, "A config file.<|im_end|>"),
    ]
    expected = [*given, given[0], given[0], given[0]]
    model = {"model": {"path": str(tiny)}}
    found = looked(Perplexity(**model), *contents, asked)
    assert found == pytest.approx(expected, rel=1e-4)
    text = looked(Perplexity(**model), Text("It rains."))
    assert text == pytest.approx([plain("I", "t rains.<|im_end|>")], rel=1e-4)
    alone = [
        plain(turns("user", "") + START, answer + "<|im_end|>")
        for answer in ("A config file.", "It rains in London, again and again.")
    ]
    found = looked(Ifd(**model), row, other, with_system)
    ratios = [given[0] / alone[0], given[1] / alone[1], given[2] / alone[0]]
    assert found == pytest.approx(ratios, rel=1e-4)


def test_what_goes(tiny: Path, cleaned: Any) -> None:
    model = {"model": {"path": str(tiny)}}
    rows = [("What is a model?", "A config file."), ("Why?", "It rains in London, again and again.")]
    both = looked(Perplexity(**model), *(talk(*row) for row in rows))
    between = sum(both) / 2
    high, low = (
        cleaned(Perplexity(**model, **line), *rows) for line in ({"max": between}, {"max": 1e9, "min": between})
    )
    above = [value > between for value in both]
    assert [bool(outcome.drop) for outcome in high] == above
    assert [bool(outcome.drop) for outcome in low] == [not one for one in above]
    drop = high[above.index(True)].drop
    assert (drop.rule, drop.score, drop.threshold) == ("perplexity", pytest.approx(max(both)), between)
    assert f"perplexity {max(both):.4g}; rows from {between:g} on go" in drop.detail
    assert low[above.index(False)].drop.rule == "low-perplexity"


def test_what_cannot_be_measured_stays_and_is_said(tiny: Path) -> None:
    cleaner = Ifd(model={"path": str(tiny)}).build()
    rows = [said(Text("a text"), "a:1"), said(Task(Conversation((SYSTEM,))), "a:2"), said(talk("q", "x " * 600), "a:3")]
    rows.append(said(talk("q", "what <|im_end|> is"), "a:4"))  # the renderer refuses it
    assert cleaner.notes() == []
    assert [cleaner.judge(row, found) for row, found in zip(rows, cleaner.look(rows), strict=True)] == [None] * 4
    (note,) = cleaner.notes()
    assert note.startswith("ifd: 4 rows were not measured, and stay") and note.endswith("first: a:1")


def test_answers_to_nothing_keep_their_turns() -> None:
    row = Conversation((SYSTEM, *talk("q", "a").messages, *talk("r", "b").messages))
    assert [(turn.role, turn.content) for turn in unasked(row).messages] == [
        ("user", ""), ("assistant", "a"), ("user", ""), ("assistant", "b"),
    ]  # fmt: skip
    assert answered(Task(Conversation((SYSTEM,)))) is None


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="greater than 1"):
        Perplexity(max=1)
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        Perplexity(model={"path": "nowhere"}).build()


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_measured_or_said_not_to_be(tiny: Path, question: str, answer: str) -> None:
    for found in looked(Perplexity(model={"path": str(tiny)}), talk(question, answer)):
        assert found is None or (math.isfinite(found) and found >= 1)


def test_what_cleaners_say_reaches_the_user(tiny: Path, write_rows: Any, run_config: Any) -> None:
    """In the tally of a cleaning and in the ledger of a run."""
    from luthier.config import SourceConfig
    from luthier.data.clean.run import clean_source
    from luthier.data.processor import DataProcessor
    from luthier.models.load import ModelLoader
    from luthier.objectives.sft import Sft

    rows = [{"prompt": "q", "completion": "x " * 600}, {"prompt": "q", "completion": "yes"}]
    path, output = write_rows(rows), tiny.parent / "cleaned"
    cleaner = Perplexity(model={"path": str(tiny)}, max=1e9)
    for folder in (None, str(output)):
        tally = clean_source(SourceConfig(path=str(path)), [cleaner], folder)
        assert tally.kept == 2 and "1 rows were not measured" in tally.notes[0]
    assert all("1 rows were not measured" in (output / name).read_text() for name in ("report.md", "report.html"))
    config = run_config(rows, data__max_length=4096, data__held_out=0.0)
    data = config.data.model_copy(update={"clean": [cleaner]})
    ledger = DataProcessor().prepare(data, ModelLoader().renderer(config.model), Sft()).ledger
    assert "1 rows were not measured" in "".join(ledger.to_json())


def _rows() -> list[tuple[str, str]]:
    import json

    from tests.house.source import ROOT

    lines = (ROOT / "examples" / "data" / "general.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    return [(m[0]["content"], m[1]["content"]) for m in (json.loads(line)["messages"] for line in lines)]


def _means(cleaner: Any, rows: Sequence[tuple[str, str]]) -> list[float]:
    return list(cleaner.build().look([_said(*row) for row in rows]))


def _said(question: str, answer: str) -> Said:
    return said(talk(question, answer), "x:1")


@pytest.mark.slow
@pytest.mark.skipif(not entries()[REAL].fetched, reason=f"luthier models fetch {REAL}")
def test_the_real_model_tells_garbled_and_misplaced_answers() -> None:
    rows = _rows()
    garbled = [(question, " ".join(word[::-1] for word in answer.split())) for question, answer in rows]
    misplaced = [(question, rows[place - 3][1]) for place, (question, _) in enumerate(rows)]
    right, wrong = (_means(Perplexity(), one) for one in (rows, garbled))
    assert max(right) < Perplexity().max and max(right) < min(wrong)
    right, wrong = (_means(Ifd(), one) for one in (rows, misplaced))
    assert max(right) < 1 and sum(one >= 1 for one in wrong) >= 6
