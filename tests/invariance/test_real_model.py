"""The real model on real rows: against itself in float64, and against the Trainer of transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common import SHIPPED
from benchmarks.exactness import measure, padded, real_rows
from luthier.adapters.lora import Lora
from luthier.config import EvaluateConfig, ModelConfig, parse_config
from luthier.data.loader import Loader
from luthier.data.pack import Layout
from luthier.evaluate.compare import judged, pairs, scores_of
from luthier.evaluate.compare import measured as compared
from luthier.evaluate.kinds import Loss
from luthier.evaluate.measure import measure as measure_rows
from luthier.factory import Factory
from luthier.models.catalogue import fetch
from luthier.models.load import ModelLoader
from luthier.train.observers.base import Observer, Progress

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> str:
    """The real model, fetched once, on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    return str(fetch("smollm2-135m-instruct"))


@pytest.mark.usefixtures("folder")
def test_nearer_to_float64_than_transformers() -> None:
    """The definition itself is held in test_references.py; here the arithmetic on the real size is."""
    errors = measure()
    ours, theirs = errors["luthier"], errors["transformers + peft"]
    assert ours.loss < 1e-6 and ours.gradient < 5e-5
    assert ours.loss < theirs.loss and ours.gradient < theirs.gradient


class Losses(Observer):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step(self, progress: Progress) -> bool:
        self.seen.append(progress.loss)
        return False


def test_twenty_steps_as_the_trainer_of_transformers(folder: str, tmp_path: Path) -> None:
    """The same rows in the same order, AdamW, cosine with warm-up, clipping: the losses of every step to 1e-3."""
    from transformers import Trainer, TrainingArguments

    steps, size = 20, 4
    tree = {
        "model": folder,
        "data": {"train": [{"path": str(SHIPPED), "limit": 40}], "held_out": 0.0},
        "adapter": {"type": "lora", "rank": 8},
        "train": {"max_steps": steps, "batch_size": size, "learning_rate": 5e-4, "warmup_steps": 2, "save_every": None},
        "output": str(tmp_path / "ours"),
    }
    config = parse_config(tree)
    watch = Losses()
    Factory().fine_tune(config, observers=[watch])
    examples = real_rows(40)
    loader = Loader(examples, batch_size=size, seed=0, layout=Layout(packing=True, tokens=512))
    order = [example for _, step in zip(range(steps), loader.steps(), strict=False) for example in step.examples]

    torch.manual_seed(0)
    model = Lora(rank=8).attach(ModelLoader().load(ModelConfig(path=folder)))
    model.set_attn_implementation("sdpa")

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(order)

    trainer = InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            max_steps=steps,
            per_device_train_batch_size=size,
            learning_rate=5e-4,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            weight_decay=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        train_dataset=order,
        data_collator=padded,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert watch.seen == pytest.approx(losses, rel=1e-3)
    assert losses[-1] < losses[0]


def test_a_short_quick_start_learns_and_forgets_nothing(folder: str, tmp_path: Path) -> None:
    """A third of the quick start's rows, once: better on questions about Luthier, at most 5 % worse on general ones."""
    shipped = SHIPPED.parent
    tree = {
        "model": folder,
        "data": {
            "train": [
                {"path": str(SHIPPED), "limit": 160},
                {"path": str(shipped / "general_train.jsonl"), "limit": 30},
            ],
            "held_out": 0.0,
        },
        "train": {"epochs": 1, "batch_size": 4, "learning_rate": 2e-3, "save_every": None},
        "output": str(tmp_path / "run"),
    }
    Factory().fine_tune(parse_config(tree))
    files = [str(shipped / "luthier_held_out.jsonl"), str(shipped / "general.jsonl")]
    measured = [
        measure_rows(ModelLoader(), ModelConfig(path=path), files, EvaluateConfig(kinds=[Loss()]))
        for path in (folder, str(tmp_path / "run"))
    ]
    (asked,), (general,) = (
        judged([compared(scores) for scores in scores_of(pairs(base.records, tuned.records))])
        for base, tuned in zip(*measured, strict=True)
    )
    assert asked.verdict == "better" and asked.high < 0
    assert general.tuned < 1.05 * general.base
