"""Faults of rows, tokens and settings are found by name, file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import CheckFailed
from luthier.factory import Factory
from luthier.train.check import Finding, Report, pieces
from tests.conftest import CHATML, SPECIAL, build_tokenizer, chat_rows
from tests.train.conftest import Make, check, problems, the_one, turns


@pytest.mark.parametrize(
    ("row", "name", "detail"),
    [
        (turns("A question?", ""), "empty-answer", "says nothing"),
        (turns("The same.", "The same."), "identical-pair", "repeats what it answers"),
        ({"messages": [{"role": "user", "content": "Hello?"}]}, "no-assistant", "no assistant message"),
        (turns("Say it.", "It is <|im_end|>."), "control-token", "<|im_end|>"),
    ],
)
@pytest.mark.parametrize("bad_rows", ["error", "drop"])
def test_rows_that_cannot_be_used(
    run_config: Make, tmp_path: Path, row: Any, name: str, detail: str, bad_rows: str
) -> None:
    rows = chat_rows(12)
    rows.insert(7, row)
    found = check(run_config(rows, data__bad_rows=bad_rows)).report.findings
    hint = "data.bad_rows=drop" if bad_rows == "error" else ""
    the_one(found, "error" if bad_rows == "error" else "warning", name, f"{tmp_path}/train.jsonl:8: ", detail, hint)


def test_no_supervised_token_is_left(run_config: Make, tmp_path: Path) -> None:
    rows = [*chat_rows(6), turns("Tell me more. " * 40, "No.")]
    found = check(run_config(rows, data__over_length="truncate", data__max_length=70)).report.findings
    the_one(
        found, "error", "no-supervised-token", f"{tmp_path}/train.jsonl:7: no supervised token in the first 70 tokens"
    )


def test_over_length(run_config: Make, tmp_path: Path) -> None:
    rows = [*chat_rows(6), turns("Go on?", "And so on. " * 40)]
    found = check(run_config(rows, data__max_length=70)).report.findings
    the_one(
        found, "error", "over-length", f"{tmp_path}/train.jsonl:7: ", "data.max_length=70", "drop, truncate or split"
    )
    length = int(problems(found)[0].message.split("the longest has ")[1].split(")")[0])
    assert not problems(check(run_config(rows, data__max_length=length)).report.findings)


def test_dropped_for_their_length_is_only_a_warning(run_config: Make, tmp_path: Path) -> None:
    rows = [*chat_rows(6), turns("Go on?", "And so on. " * 40)]
    found = check(run_config(rows, data__max_length=70, data__over_length="drop")).report.findings
    the_one(found, "warning", "over-length", f"{tmp_path}/train.jsonl:7: ")


def test_more_rows_than_are_named(run_config: Make) -> None:
    found = check(run_config([*chat_rows(6), *[turns(f"{i}?", "") for i in range(9)]])).report.findings
    the_one(found, "error", "empty-answer", "9 rows cannot be used", "; and 4 more rows")


def test_held_out_rows_that_are_trained_on(run_config: Make, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    rows = chat_rows(8)
    held = write_rows([turns("Something new?", "Yes, indeed."), rows[4]], "held.jsonl")
    found = check(run_config(rows, data__held_out=[str(held)])).report.findings
    the_one(found, "error", "held-out", f"{held}:2 is also {tmp_path}/train.jsonl:5", "1 held-out rows")


def test_without_held_out_rows(run_config: Make) -> None:
    (found,) = check(run_config(data__held_out=0.0)).report.findings
    assert (found.level, found.name) == ("note", "held-out")


def test_control_tokens_in_a_question(run_config: Make, tmp_path: Path) -> None:
    rows = [*chat_rows(6), turns("What is <|im_start|>?", "A control token.")]
    the_one(check(run_config(rows)).report.findings, "warning", "control-token", f"{tmp_path}/train.jsonl:7")


def test_double_bos(with_tokenizer: Make, tmp_path: Path) -> None:
    template = "{{ bos_token }}" * 2 + CHATML
    tokenizer = build_tokenizer(special=[*SPECIAL, "<s>"], template=template)
    tokenizer.bos_token = "<s>"
    found = check(with_tokenizer(tokenizer, chat_rows(3), data__held_out=0.0)).report.findings
    the_one(found, "error", "double-bos", f"{tmp_path}/train.jsonl:1: begins with two <s> tokens", "train.jsonl:3: ")


def test_the_end_of_turn_does_not_stop_generation(with_tokenizer: Make) -> None:
    tokenizer = build_tokenizer(eos="<|endoftext|>")
    found = check(with_tokenizer(tokenizer)).report.findings
    the_one(found, "warning", "stop-token", "end with <|im_end|>", "stops at <|endoftext|>", "generation_config.json")


def test_a_tokenizer_without_an_end_token(with_tokenizer: Make) -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    found = problems(check(with_tokenizer(tokenizer)).report.findings)
    assert ("error", "end-of-turn", "the tokenizer has no end token") in [(f.level, f.name, f.message) for f in found]


@pytest.mark.parametrize(
    ("adapter", "rate", "warns"),
    [("lora", 1e-7, True), ("lora", 1e-3, False), ("lora", 0.1, True), ("full", 1e-3, True), ("full", 1e-5, False)],
)
def test_learning_rates(run_config: Make, adapter: str, rate: float, warns: bool) -> None:
    found = Factory().prepare(run_config(adapter=adapter, train__learning_rate=rate)).report.findings
    if not warns:
        assert not problems(found)
        return
    settings: Any = run_config(adapter=adapter).adapter
    low, high = settings.learning_rates
    the_one(
        found, "warning", "learning-rate", f"train.learning_rate={rate:g}", f"what {adapter} ", f"({low:g} to {high:g})"
    )


def test_errors_refuse_the_run() -> None:
    warning, error = Finding("warning", "a", "is odd"), Finding("error", "b", "is wrong")
    Report([warning], []).require_no_errors()
    with pytest.raises(CheckFailed, match=r"refuses to train:\n  b: is wrong\n  b: is wrong$"):
        Report([error, warning, error], []).require_no_errors()


def test_samples_show_what_is_trained(run_config: Make, tmp_path: Path) -> None:
    ready = Factory().prepare(run_config([turns("Why?", "Because.", "Really?", "Yes.")] * 3, data__held_out=0.0))
    assert [sample.where for sample in ready.report.samples] == [f"{tmp_path}/train.jsonl:{n}" for n in (1, 2)]
    shown = ready.report.samples[0].pieces
    assert [text for text, on in shown if on] == ["Because.<|im_end|>", "Yes.<|im_end|>"]
    assert pieces(ready.data.train[0].sequences[0], ready.renderer) == shown
