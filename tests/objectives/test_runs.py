"""Every objective through whole runs: it learns, however a step is cut, and what it leaves is loaded again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.config import ModelConfig
from luthier.errors import DataError, ModelError
from luthier.models.load import ModelLoader
from luthier.train.observers.base import Observer, Progress
from tests.conftest import build_model, chat_rows
from tests.objectives.conftest import labelled_rows, pair_rows

Make = Callable[..., Any]
KINDS: dict[str, tuple[Callable[[int], list[dict[str, Any]]], dict[str, Any]]] = {
    "sft": (chat_rows, {"label_smoothing": 0.1, "neftune_noise_alpha": 5}),
    "dpo": (pair_rows, {"sft_weight": 0.2}),
    "kto": (labelled_rows, {"beta": 0.5}),
    "orpo": (pair_rows, {}),
    "simpo": (pair_rows, {}),
    "cpo": (pair_rows, {}),
    "reward": (pair_rows, {}),
    "distill": (chat_rows, {"sft_weight": 0.3}),
}


class Seen(Observer):
    """Keeps what each step said, and stops where it is told to."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps: list[Progress] = []
        self.stop = stop

    def on_step(self, progress: Progress) -> bool:
        self.steps.append(progress)
        return progress.state.step == self.stop


@pytest.fixture
def config_of(run_config: Make, tokenizer: Any, tmp_path: Path) -> Make:
    """A config of a kind of objective, with rows that it learns from."""

    def make(kind: str, *, without: tuple[str, ...] = (), **overrides: Any) -> Any:
        rows, settings = KINDS[kind]
        if kind == "distill":
            teacher = tmp_path / "teacher"
            build_model(len(tokenizer), seed=5).save_pretrained(teacher)
            tokenizer.save_pretrained(teacher)
            settings = settings | {"teacher": str(teacher)}
        settings = {name: value for name, value in settings.items() if name not in without}
        common = {"objective": {"type": kind, **settings}, "train__warmup_steps": 0, "train__epochs": 20}
        return run_config(rows(24), **common | overrides)

    return make


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_learns(config_of: Make, kind: str, adapter: str) -> None:
    """The loss of the training rows falls, and the folder that is left says what the run's model said."""
    rate = 5e-3 if adapter == "lora" else 1e-3
    watch = Seen()
    config = config_of(
        kind, adapter=adapter, train__learning_rate=rate, train__max_steps=30, train__evaluate_every="10 steps",
        output__final="last",
    )  # fmt: skip
    model, metrics = luthier.Factory().fine_tune(config, observers=[watch])
    first, last = (sum(step.loss for step in part) / 3 for part in (watch.steps[:3], watch.steps[-3:]))
    assert last < first - 0.05 * abs(first)
    assert metrics["loss"] < watch.steps[9].evaluation["loss"] if watch.steps[9].evaluation else False
    assert ("perplexity" in metrics) == (kind == "sft")
    again = ModelLoader().load(ModelConfig(path=config.output.dir), scores=kind == "reward")
    ids = torch.arange(6)[None]
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    lines = (Path(config.output.dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(watch.steps[9].metrics) <= set(json.loads(lines[9]))


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_step_is_cut_never_matters(config_of: Make, tmp_path: Path, kind: str) -> None:
    """One pass, many small ones, and padded ones; what an objective takes from the whole step included."""
    layouts = {
        "one": {"train__micro_batch_tokens": 100_000},
        "many": {"train__micro_batch_size": 1},
        "padded": {"data__packing": False, "train__micro_batch_size": 3},
    }
    losses = {}
    for name, layout in layouts.items():
        watch = Seen()
        config = config_of(kind, without=("neftune_noise_alpha",), output=str(tmp_path / name), **layout)
        luthier.Factory().fine_tune(config, observers=[watch])
        losses[name] = [(step.loss, step.grad_norm, step.metrics) for step in watch.steps]
    for name in ("many", "padded"):
        for (loss, norm, numbers), (right, right_norm, right_numbers) in zip(losses[name], losses["one"], strict=True):
            assert loss == pytest.approx(right, rel=1e-5)
            assert norm == pytest.approx(right_norm, rel=1e-4)
            if abs(right_numbers.get("reward_margin", 1.0)) < 1e-5:  # nobody is ahead but by rounding
                numbers = {**numbers, "reward_accuracy": right_numbers["reward_accuracy"]}
            assert numbers == pytest.approx(right_numbers, rel=1e-3, abs=1e-5)


def test_dpo_starts_at_ln_2(config_of: Make) -> None:
    """The reference is the model itself, so the first step knows no difference."""
    watch = Seen()
    luthier.Factory().fine_tune(config_of("dpo", without=("sft_weight",)), observers=[watch])
    assert watch.steps[0].loss == pytest.approx(math.log(2), abs=1e-6)


def test_kto_moves_both_ways(config_of: Make) -> None:
    watch = Seen()
    luthier.Factory().fine_tune(config_of("kto", train__max_steps=25, train__learning_rate=5e-3), observers=[watch])
    assert watch.steps[0].loss == pytest.approx(0.5, abs=1e-5)  # nothing has moved
    end = watch.steps[-1].metrics
    assert end["reward_wanted"] > 0 > end["reward_unwanted"] and end["kl"] >= 0


def test_a_reward_model_ranks_and_is_read_by_plain_transformers(config_of: Make, tokenizer: Any) -> None:
    """The score of the pipeline that everybody uses is the one that was trained, whatever is padded."""
    from transformers import AutoModelForSequenceClassification

    config = config_of("reward", adapter="full", train__max_steps=30)
    _, metrics = luthier.Factory().fine_tune(config)
    assert metrics["reward_accuracy"] >= 0.75
    model = AutoModelForSequenceClassification.from_pretrained(config.output.dir)
    ready = luthier.Factory().prepare(config)
    texts = [
        tokenizer.apply_chat_template([m.for_template() for m in c.messages], tokenize=False)
        for e in ready.data.held_out
        for c in (e.content.chosen, e.content.rejected)  # type: ignore[union-attr]
    ]
    together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits[:, 0] for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    leads = (together[0::2] > together[1::2]).float().mean().item()
    assert leads == pytest.approx(metrics["reward_accuracy"])


def test_a_reward_model_writes_no_answers(config_of: Make) -> None:
    for adapter in ("lora", "full"):
        config = config_of("reward", adapter=adapter)
        luthier.Factory().fine_tune(config, restart=True)
        with pytest.raises(ModelError, match="a reward model, which scores answers and cannot write any"):
            ModelLoader().load(ModelConfig(path=config.output.dir))


def test_a_teacher_of_another_family_is_refused(config_of: Make, tmp_path: Path) -> None:
    from tests.conftest import build_tokenizer

    config = config_of("distill")
    other = build_tokenizer(special=["<a>", "<|im_start|>", "<|im_end|>"])
    other.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ModelError, match=r"objective\.teacher: .* has another vocabulary than the model"):
        luthier.Factory().fine_tune(config)


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        ("dpo", chat_rows, "dpo learns pairs of answers; this row is a conversation: use objective: sft"),
        ("reward", labelled_rows, "reward learns pairs of answers; this row holds an answer with a label"),
        ("kto", pair_rows, "kto learns answers with a label; this row holds two answers to compare"),
        ("sft", pair_rows, "sft learns conversations; this row holds two answers to compare: use objective: dpo"),
        ("pretrain", pair_rows, "pretrain learns texts and conversations; this row holds two answers to compare"),
    ],
)  # fmt: skip
def test_rows_of_another_kind_are_refused(run_config: Make, kind: str, rows: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        luthier.Factory().fine_tune(run_config(rows(8), objective=kind))


def test_a_cut_pair_is_dropped_whole(run_config: Make) -> None:
    rows = pair_rows(8)
    rows[3]["rejected"] = "long " * 300
    rows[4]["prompt"] = "long " * 300
    ready = luthier.Factory().prepare(
        run_config(rows, objective="dpo", data__over_length="truncate", data__bad_rows="drop")
    )
    outcomes = {entry.line: (entry.outcome, entry.reason) for entry in ready.data.ledger.entries}
    assert outcomes[4] == ("truncated", "over-length") and outcomes[5] == ("dropped", "no-supervised-token")
    assert all(len(example.sequences) == 2 for example in ready.data.train)


def test_smoothing_without_a_meaning_is_refused() -> None:
    from pydantic import ValidationError

    from luthier.objectives.dpo import Dpo

    with pytest.raises(ValidationError, match="label_smoothing goes with loss_type sigmoid or robust, not ipo"):
        Dpo(loss_type="ipo", label_smoothing=0.1)
