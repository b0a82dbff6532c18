"""One model on one file, and two models on the rows that both can use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config import EvaluateConfig, ModelConfig, parse_section
from luthier.data.conversation import Conversation, Message, Text
from luthier.errors import DataError
from luthier.evaluate.compare import Comparison, judged, pairs, scores_of
from luthier.evaluate.compare import measured as unjudged
from luthier.evaluate.measure import Measured, measure, rows_of
from luthier.evaluate.question import question
from luthier.evaluate.records import Record, totals
from luthier.inference.hf import HfEngine
from luthier.models.load import ModelLoader
from tests.conftest import CHATML, SPECIAL, build_model, build_tokenizer, chat_rows

Write = Callable[..., Path]
REFUSES = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML


def settings(*metrics: str, **more: Any) -> EvaluateConfig:
    tree = {"metrics": list(metrics), "max_new_tokens": 2, "kinds": ["loss", "generate"], **more}
    return parse_section(EvaluateConfig, tree, source="options")


def measured(model: Path, file: Path, config: EvaluateConfig | None = None) -> Measured:
    (found,) = measure(ModelLoader(), ModelConfig(path=str(model)), [str(file)], config or settings())
    return found


def of(found: Measured, kind: str) -> list[Record]:
    return [record for record in found.records if record.kind == kind]


def compared(base: Measured, tuned: Measured) -> list[Comparison]:
    return judged([unjudged(scores) for scores in scores_of(pairs(base.records, tuned.records))])


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., Path]:
    """Another model, with a tokenizer of its own where asked."""

    def make(tokenizer: Any | None = None, seed: int = 1) -> Path:
        tokenizer = tokenizer or build_tokenizer()
        folder = tmp_path / f"other-{len(list(tmp_path.iterdir()))}"
        build_model(len(tokenizer), seed=seed, initializer_range=0.1).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


ROWS = chat_rows(7)
TWO_TURNS = {
    "messages": [*ROWS[0]["messages"], {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
}


def test_losses_are_those_of_the_model(tiny: Path, tmp_path: Path, write_rows: Write) -> None:
    """Row by row, whole, in the order of the file, plain texts beside conversations."""
    found = measured(tiny, write_rows(ROWS))
    model = ModelLoader().load(ModelConfig(path=str(tiny))).requires_grad_(False)
    examples, _ = rows_of(found.file, ModelLoader().renderer(ModelConfig(path=str(tiny))))
    for example, record in zip(examples, found.records, strict=True):
        (tokens,) = example.sequences
        ids = torch.from_numpy(tokens.ids).long()
        logprobs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
        picked = [float(logprobs[t - 1, ids[t]]) for t in range(1, len(ids)) if tokens.weights[t]]
        assert record.counts["loss"] == [pytest.approx(-sum(picked), rel=1e-5), len(picked)]
    assert [record.where for record in found.records] == [f"{found.file}:{line}" for line in range(1, 8)]
    sums = [sum(column) for column in zip(*(record.counts["loss"] for record in found.records), strict=True)]
    assert found.metrics == {"loss": pytest.approx(sums[0] / sums[1])}
    shutil.copytree(tiny, tmp_path / "wide")
    config = tmp_path / "wide" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 8192'))
    texts = measured(tmp_path / "wide", write_rows([{"text": "It rains. " * 600}, {"text": "Short."}]))
    assert texts.records[0].counts["loss"][1] > 1024, "nothing is cut off from what a model is judged by"


def test_answers_and_progress(tiny: Path, write_rows: Write) -> None:
    file, seen = write_rows([*ROWS, ROWS[0]]), []

    def on_file(name: str, work: int) -> Callable[[int], object]:
        seen.append((name, work))
        return lambda done: seen.append(("done", done))

    config = settings("exact_match", "chrf", limit=3)
    (found,) = measure(ModelLoader(), ModelConfig(path=str(tiny)), [str(file)], config, on_file=on_file)
    answers = of(found, "generate")
    assert [record.reference for record in answers] == [row["messages"][1]["content"] for row in ROWS[:3]]
    assert [record.question for record in answers] == [row["messages"][0]["content"] for row in ROWS[:3]]
    assert all(set(record.scores) == {"exact_match", "chrf"} for record in answers)
    assert seen[0] == (str(file), 8 + 3) and sum(count for _, count in seen[1:]) == 8 + 3
    assert of(measured(tiny, file), "generate") == []


def test_several_files(tiny: Path, write_rows: Write) -> None:
    files = [str(write_rows(ROWS[:2], "a.jsonl")), str(write_rows(ROWS[2:], "b.jsonl"))]
    found = measure(ModelLoader(), ModelConfig(path=str(tiny)), files, settings())
    assert [(m.file, len(m.records)) for m in found] == [(files[0], 2), (files[1], 5)]


def test_a_file_that_cannot_be_used(tiny: Path, write_rows: Write) -> None:
    with pytest.raises(DataError, match="no row is left"):
        measured(tiny, write_rows([{"messages": [{"role": "user", "content": "?"}]}]))


def test_a_better_model_is_better(tiny: Path, other: Callable[..., Path], write_rows: Write) -> None:
    file = write_rows(chat_rows(15))
    base, tuned = measured(tiny, file), measured(other(), file)
    (loss,) = compared(base, tuned)
    (back,) = compared(tuned, base)
    assert (loss.name, loss.rows) == ("loss", 15)
    assert (loss.base, loss.tuned) == (base.metrics["loss"], tuned.metrics["loss"]) == (back.tuned, back.base)
    assert {loss.verdict, back.verdict} == {"better", "worse"}
    assert loss.verdict == ("better" if loss.difference < 0 else "worse")


def test_a_model_against_itself_cannot_tell(tiny: Path, write_rows: Write) -> None:
    found = measured(tiny, write_rows(ROWS), settings("exact_match", "chrf"))
    result = compared(found, found)
    assert [c.name for c in result] == ["loss", "exact_match", "chrf"]
    assert all((c.difference, c.low, c.high, c.verdict, c.rows) == (0, 0, 0, "cannot tell", 7) for c in result)


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_tokenizer(special=[*SPECIAL, "<|more|>"]),
        lambda: build_tokenizer(template=CHATML.replace("'<|im_end|>'", "' <|im_end|>'")),
    ],
    ids=["other ids", "other template"],
)
def test_unequal_tokens_leave_the_loss_out(
    tiny: Path, other: Callable[..., Path], write_rows: Write, build: Callable[[], Any]
) -> None:
    file = write_rows(ROWS)
    base, tuned = (measured(model, file, settings("chrf")) for model in (tiny, other(build())))
    (chrf,) = compared(base, tuned)
    assert (chrf.name, chrf.rows) == ("chrf", 7)


def test_rows_that_only_one_model_can_use(tiny: Path, other: Callable[..., Path], write_rows: Write) -> None:
    """Its template refuses them; the others are compared, each with itself."""
    file = write_rows([TWO_TURNS, *ROWS[:3], TWO_TURNS, *ROWS[3:], ROWS[1]])
    base = measured(tiny, file, settings("chrf"))
    tuned = measured(other(build_tokenizer(template=REFUSES)), file, settings("chrf"))
    assert (len(of(base, "loss")), len(of(tuned, "loss")), len(tuned.dropped)) == (10, 8, 2)
    assert tuned.dropped[0].startswith(f"{file}:1: ") and "one turn only" in tuned.dropped[0]
    loss, chrf = compared(base, tuned)
    assert (loss.rows, chrf.rows) == (8, 8)
    kept = [record for record in base.records if record.where.split(":")[-1] not in ("1", "5")]
    assert (loss.base, loss.tuned) == pytest.approx((totals(kept)["loss"], tuned.metrics["loss"]))
    assert (chrf.base, chrf.tuned) == pytest.approx((totals(kept)["chrf"], tuned.metrics["chrf"]))
    loss_back, _ = compared(tuned, base)
    assert (loss_back.base, loss_back.tuned) == (loss.tuned, loss.base)


def test_nothing_in_common(tiny: Path, write_rows: Write) -> None:
    base = measured(tiny, write_rows(ROWS[:3]), settings("chrf"))
    tuned = measured(tiny, write_rows(ROWS[3:]), settings("chrf"))
    assert compared(base, tuned) == []
    assert [c.name for c in compared(base, replace(base, records=of(base, "loss")))] == ["loss"]


class Killed(BaseException):
    """As `kill -9` would, between two portions."""


def test_a_killed_measurement_goes_on_and_is_the_same(
    tiny: Path, tmp_path: Path, write_rows: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured twice, a line that was being written is measured again, and the file is the same."""
    monkeypatch.setattr("luthier.evaluate.kinds.AT_ONCE", 3)
    file, config, model = str(write_rows(ROWS)), settings("chrf"), ModelConfig(path=str(tiny))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    measure(ModelLoader(), model, [file], config, output=whole)

    def stop(name: str, work: int) -> Callable[[int], object]:
        seen = iter(range(100))

        def count(done: int) -> None:
            if next(seen) == 2:
                raise Killed

        return count

    with pytest.raises(Killed):
        measure(ModelLoader(), model, [file], config, output=out, on_file=stop)
    assert not out.exists()
    (draft,) = tmp_path.glob(".incomplete-out*")
    text = draft.read_text(encoding="utf-8")
    assert 3 < len(text.splitlines()) < 15
    draft.write_text(text[:-30], encoding="utf-8")
    asked: list[int] = []
    monkeypatch.setattr(
        "luthier.inference.hf.HfEngine.generate",
        lambda self, prompts, sampling, real=HfEngine.generate: (
            asked.append(len(prompts)) or real(self, prompts, sampling)
        ),
    )
    measure(ModelLoader(), model, [file], config, output=out)
    assert out.read_bytes() == whole.read_bytes() and sum(asked) < len(ROWS)
    assert not list(tmp_path.glob(".incomplete-*"))


def test_another_measurement_begins_anew(tiny: Path, tmp_path: Path, write_rows: Write) -> None:
    """What was begun with other settings, or on rows that have changed since, is not gone on with."""
    file, model, out = write_rows(ROWS), ModelConfig(path=str(tiny)), tmp_path / "out.jsonl"

    def stop(name: str, work: int) -> Callable[[int], object]:
        raise Killed

    with pytest.raises(Killed):
        measure(ModelLoader(), model, [str(file)], settings("chrf"), output=out, on_file=stop)
    (found,) = measure(ModelLoader(), model, [str(file)], settings("exact_match"), output=out)
    assert set(found.metrics) == {"loss", "exact_match"}


@pytest.mark.parametrize(
    ("roles", "asked"),
    [
        ("user assistant", "1"),
        ("user assistant user assistant", "3"),
        ("system user assistant user", "2"),
        ("assistant", None),
        ("user", None),
    ],
)
def test_the_question_of_a_row(roles: str, asked: str | None) -> None:
    messages = tuple(Message(role=role, content=str(i)) for i, role in enumerate(roles.split()))
    found = question(Conversation(messages))
    assert (found and found.reference) == asked
    assert found is None or found.prompt.messages == messages[: int(found.reference)]


def test_no_question() -> None:
    assert question(Text("plain")) is None
    calls = ({"function": {"name": "weather", "arguments": {}}},)
    told = Conversation((Message(role="user", content="?"), Message(role="assistant", content=" \n", tool_calls=calls)))
    found = question(told)
    assert found is not None and (found.reference, found.calls) == (" \n", calls)
