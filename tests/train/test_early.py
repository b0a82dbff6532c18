"""The best checkpoint by any measurement, and an end where nothing gets better."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ConfigError
from luthier.evaluate.evaluator import Evaluator
from luthier.factory import Factory

STEPS = {"train__max_steps": 12, "train__epochs": 20, "train__evaluate_every": "1 steps", "train__save_every": None}


class Says(Evaluator):
    """An evaluator that says what it is told to, evaluation by evaluation."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def loss(self, *given: Any, **more: Any) -> dict[str, float]:
        found = super().loss(*given, **more)
        return found | {self.name: self.values.pop(0) if len(self.values) > 1 else self.values[0]}


@pytest.mark.parametrize(
    ("name", "values", "steps", "best"),
    [
        ("loss", [5, 3, 4, 4, 2, 1], 4, 2),  # the third and the fourth are no better
        ("loss", [5, 4, 3, 3.5, 2, 2.5, 2.5], 7, 5),
        ("acc", [0.1, 0.5, 0.4, 0.4, 0.9], 4, 2),  # more is better
        ("acc", [0.1, 0.5, 0.5, 0.5, 0.9], 4, 4),  # as good is not better, but the later is kept
        ("loss", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.4, 0.3], 12, 12),
    ],
)
def test_training_ends_where_nothing_gets_better(
    run_config: Callable[..., Any], name: str, values: list[float], steps: int, best: int
) -> None:
    config = run_config(**STEPS, train__patience=2, train__best_metric=name)
    _, metrics = Factory(evaluator=Says(name, [float(value) for value in values])).fine_tune(config)
    assert (metrics["steps"], metrics["final_step"]) == (steps, best)
    folder = Path(config.output.dir)
    assert json.loads((folder / "run.json").read_text())  # finished, not interrupted
    notes = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "training ends" in line]
    assert len(notes) == (steps < 12)


def test_a_metric_of_answers_is_measured_on_schedule(run_config: Callable[..., Any]) -> None:
    config = run_config(
        **{**STEPS, "train__max_steps": 2}, train__best_metric="chrf", evaluate__metrics=["chrf"],
        evaluate__max_new_tokens=4, evaluate__limit=2,
    )  # fmt: skip
    Factory().fine_tune(config)
    lines = [json.loads(line) for line in (Path(config.output.dir) / "metrics.jsonl").read_text().splitlines()]
    assert all("held_out_chrf" in line for line in lines if "loss" in line)


def test_choices_are_trained_on_and_measured(run_config: Callable[..., Any]) -> None:
    """The letter is learnt: after some steps all that are alike are answered right."""
    rows = [{"question": f"What is {i}?", "A": "it", "B": "that", "C": "this", "answer": "C"} for i in range(24)]
    config = run_config(
        rows, train__max_steps=30, train__epochs=40, train__learning_rate=1e-2, train__best_metric="acc",
        train__evaluate_every="15 steps", evaluate__kinds=["choice"],
    )  # fmt: skip
    _, metrics = Factory().fine_tune(config)
    assert metrics["acc"] == 1.0 and metrics["loss"] < 5.5


def test_what_is_not_measured_is_said(run_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"train.best_metric: not measured: 'bleu'; .*perplexity"):
        Factory().fine_tune(run_config(**STEPS, train__best_metric="bleu"))
