"""The page: what `fine_tune` returns and writes, and that each of its four parts can be another object."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import luthier
from luthier.data.processor import DataProcessor, Prepared
from luthier.factory import Ready, Stages
from luthier.train.loop import Job
from luthier.train.state import State


def test_a_run_leaves_what_it_promises(run_config: Callable[..., Any]) -> None:
    config = run_config(evaluate__metrics=["token_f1"], evaluate__max_new_tokens=4, train__evaluate_every=2)
    model, metrics = luthier.Factory().fine_tune(config)
    folder = Path(config.output.dir)
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "config.yaml",
        "environment.json",
    } <= names
    assert {"rows.json", "metrics.jsonl", "metrics.json", "loss.png", "report.md", "run.json", "checkpoint-4"} <= names
    assert not model.training and metrics["steps"] == 4 and 0 <= metrics["token_f1"] <= 1
    assert json.loads((folder / "metrics.json").read_text())["loss"] == metrics["loss"]
    assert luthier.read_config(folder / "config.yaml") == config
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    keys = {"loss", "learning_rate", "grad_norm", "tokens", "seconds", "peak_memory_bytes", "epoch", "units"}
    assert all(keys <= line.keys() for line in lines)
    report = (folder / "report.md").read_text()
    assert "loss.png" in report and f"luthier chat {folder}" in report and "| kept |" in report
    ledger = json.loads((folder / "rows.json").read_text())
    assert ledger["summary"]["read"] == len(ledger["rows"]) == 24


def test_every_part_can_be_another_object(run_config: Callable[..., Any], tmp_path: Path) -> None:
    asked: list[str] = []
    real = luthier.Factory()

    class Data:
        def prepare(self, *arguments: Any) -> Prepared:
            asked.append("data")
            prepared = DataProcessor().prepare(*arguments)
            return replace(prepared, train=prepared.train[:4])

    class Models:
        def renderer(self, config: Any) -> Any:
            asked.append("renderer")
            return real.models.renderer(config)

        def load(self, config: Any, **settings: Any) -> Any:
            asked.append("load")
            return real.models.load(config, **settings)

    class Trainer:
        def train(self, job: Job) -> State:
            asked.append(f"train on {len(job.loader.examples)}")
            return replace(job.state, step=7, tokens=70)

    class Evaluator:
        def loss(self, *arguments: Any) -> dict[str, float]:
            return {"loss": 1.5}

        def answers(self, *arguments: Any) -> dict[str, float]:
            return {"wit": 0.25}

    factory = luthier.Factory(data=Data(), models=Models(), trainer=Trainer(), evaluator=Evaluator())
    _, metrics = factory.fine_tune(run_config(evaluate__metrics=["chrf"]))
    assert asked == ["renderer", "data", "load", "train on 4"]
    assert (metrics["steps"], metrics["loss"], metrics["wit"]) == (7, 1.5, 0.25)


def test_stages_are_told_in_order(run_config: Callable[..., Any]) -> None:
    told: list[str] = []

    class Watch(Stages):
        def stage(self, text: str) -> None:
            told.append(text.split(" ", maxsplit=1)[0])

        def report(self, ready: Ready) -> None:
            told.append(f"{len(ready.report.samples)} samples")

    luthier.Factory().fine_tune(run_config(), stages=Watch())
    assert told == ["reading", "2 samples", "loading", "training", "measuring"]


def test_check_trains_and_writes_nothing(run_config: Callable[..., Any]) -> None:
    config = run_config()
    ready = luthier.Factory().check(config)
    assert len(ready.data.train) + len(ready.data.held_out) == 24
    assert not Path(config.output.dir).exists()


def test_the_same_seed_gives_the_same_run(run_config: Callable[..., Any], tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        config = run_config(output__dir=str(tmp_path / name), train__seed=seed)
        luthier.Factory().fine_tune(config)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    runs: Sequence[bytes] = [weights("a", 0), weights("b", 0), weights("c", 1)]
    assert runs[0] == runs[1] != runs[2]
