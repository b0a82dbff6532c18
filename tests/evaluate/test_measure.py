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
from luthier.evaluate.evaluator import Evaluator
from luthier.evaluate.generate import question
from luthier.evaluate.loss import mean_loss
from luthier.evaluate.measure import Measured, compare_measured, measure
from luthier.models.load import ModelLoader
from tests.conftest import CHATML, SPECIAL, build_model, build_tokenizer, chat_rows

Write = Callable[..., Path]
REFUSES = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML


def settings(*metrics: str, **more: Any) -> EvaluateConfig:
    tree = {"metrics": list(metrics), "max_new_tokens": 2, **more}
    return parse_section(EvaluateConfig, tree, source="options")


def measured(model: Path, file: Path, config: EvaluateConfig | None = None) -> Measured:
    (found,) = measure(ModelLoader(), Evaluator(), ModelConfig(path=str(model)), [str(file)], config or settings())
    return found


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
    for example, loss in zip(found.examples, found.losses, strict=True):
        (tokens,) = example.sequences
        ids = torch.from_numpy(tokens.ids).long()
        logprobs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
        picked = [float(logprobs[t - 1, ids[t]]) for t in range(1, len(ids)) if tokens.weights[t]]
        assert (loss.total, loss.tokens) == (pytest.approx(-sum(picked), rel=1e-5), len(picked))
    assert [example.origin.line for example in found.examples] == list(range(1, 8))
    assert mean_loss(found.losses) == sum(row.total for row in found.losses) / sum(row.tokens for row in found.losses)
    shutil.copytree(tiny, tmp_path / "wide")
    config = tmp_path / "wide" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 8192'))
    texts = measured(tmp_path / "wide", write_rows([{"text": "It rains. " * 600}, {"text": "Short."}]))
    assert texts.losses[0].tokens > 1024, "nothing is cut off from what a model is judged by"


def test_answers_and_progress(tiny: Path, write_rows: Write) -> None:
    file, seen = write_rows([*ROWS, ROWS[0]]), []

    def on_file(name: str, work: int) -> Callable[[int], object]:
        seen.append((name, work))
        return lambda done: seen.append(("done", done))

    config = settings("exact_match", "chrf", limit=3)
    (found,) = measure(ModelLoader(), Evaluator(), ModelConfig(path=str(tiny)), [str(file)], config, on_file=on_file)
    assert [a.question.reference for a in found.answered] == [row["messages"][1]["content"] for row in ROWS[:3]]
    assert all(set(a.scores) == {"exact_match", "chrf"} for a in found.answered)
    assert seen[0] == (str(file), 8 + 3) and sum(count for _, count in seen[1:]) == 8 + 3
    assert measured(tiny, file).answered == []


def test_several_files(tiny: Path, write_rows: Write) -> None:
    files = [str(write_rows(ROWS[:2], "a.jsonl")), str(write_rows(ROWS[2:], "b.jsonl"))]
    found = measure(ModelLoader(), Evaluator(), ModelConfig(path=str(tiny)), files, settings())
    assert [(m.file, len(m.losses)) for m in found] == [(files[0], 2), (files[1], 5)]


def test_a_file_that_cannot_be_used(tiny: Path, write_rows: Write) -> None:
    with pytest.raises(DataError, match="no row is left"):
        measured(tiny, write_rows([{"messages": [{"role": "user", "content": "?"}]}]))


def test_a_better_model_is_better(tiny: Path, other: Callable[..., Path], write_rows: Write) -> None:
    file = write_rows(chat_rows(15))
    base, tuned = measured(tiny, file), measured(other(), file)
    (loss,) = compare_measured(base, tuned)
    (back,) = compare_measured(tuned, base)
    assert (loss.name, loss.rows) == ("loss", 15)
    assert (loss.base, loss.tuned) == (mean_loss(base.losses), mean_loss(tuned.losses)) == (back.tuned, back.base)
    assert {loss.verdict, back.verdict} == {"better", "worse"}
    assert loss.verdict == ("better" if loss.difference < 0 else "worse")


def test_a_model_against_itself_cannot_tell(tiny: Path, write_rows: Write) -> None:
    found = measured(tiny, write_rows(ROWS), settings("exact_match", "chrf"))
    result = compare_measured(found, found)
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
    (chrf,) = compare_measured(base, tuned)
    assert (chrf.name, chrf.rows) == ("chrf", 7)


def test_unequal_masks_leave_the_loss_out(tiny: Path, write_rows: Write) -> None:
    base = measured(tiny, write_rows(ROWS))
    (tokens,) = base.examples[0].sequences
    weights = tokens.weights.copy()
    weights[-3:] = 1 - weights[-3:]
    changed = replace(base.examples[0], sequences=(replace(tokens, weights=weights),))
    assert compare_measured(base, replace(base, examples=[changed, *base.examples[1:]])) == []


def test_rows_that_only_one_model_can_use(tiny: Path, other: Callable[..., Path], write_rows: Write) -> None:
    """Its template refuses them; the others are compared, each with itself."""
    file = write_rows([TWO_TURNS, *ROWS[:3], TWO_TURNS, *ROWS[3:], ROWS[1]])
    base = measured(tiny, file, settings("chrf"))
    tuned = measured(other(build_tokenizer(template=REFUSES)), file, settings("chrf"))
    assert (len(base.examples), len(tuned.examples), len(tuned.dropped)) == (10, 8, 2)
    assert tuned.dropped[0].startswith(f"{file}:1: ") and "one turn only" in tuned.dropped[0]
    loss, chrf = compare_measured(base, tuned)
    kept = [i for i in range(10) if i not in (0, 4)]
    assert (loss.rows, chrf.rows) == (8, 8)
    assert loss.base == pytest.approx(mean_loss([base.losses[i] for i in kept]))
    assert loss.tuned == pytest.approx(mean_loss(tuned.losses))
    assert chrf.base == pytest.approx(sum(base.answered[i].scores["chrf"] for i in kept) / 8)
    loss_back, _ = compare_measured(tuned, base)
    assert (loss_back.base, loss_back.tuned) == (loss.tuned, loss.base)


def test_nothing_in_common(tiny: Path, write_rows: Write) -> None:
    base = measured(tiny, write_rows(ROWS[:3]), settings("chrf"))
    tuned = measured(tiny, write_rows(ROWS[3:]), settings("chrf"))
    assert compare_measured(base, tuned) == []
    assert [c.name for c in compare_measured(base, replace(base, answered=[]))] == ["loss"]


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
    assert question(told) is None
