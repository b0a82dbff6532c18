"""The page: what `fine_tune` returns and writes, and that each of its four parts can be another object."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import luthier
from luthier.config import ModelConfig
from luthier.data.conversation import Message
from luthier.data.processor import DataProcessor, Prepared
from luthier.errors import ConfigError, DataError, OutputError
from luthier.factory import Claim, Stages
from luthier.models.load import ModelLoader
from luthier.tracking.run import RunFolder, require_same
from luthier.train.check import Ready
from luthier.train.state import State
from luthier.train.step import Job

pytestmark = pytest.mark.whole


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
        def loss(self, *arguments: Any, strategy: Any) -> dict[str, float]:
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


def test_what_a_run_is_made_from_is_never_removed(run_config: Callable[..., Any]) -> None:
    """Beginning anew in the folder of the model, or of the rows, would remove them."""
    config = run_config()
    luthier.Factory().fine_tune(config)
    before = sorted(Path(config.output.dir).rglob("*"))
    for made_from in ("model", "rows"):
        rows = Path(config.output.dir) / "rows.jsonl"
        rows.write_bytes(Path(config.data.train[0].path).read_bytes())
        changes = {"model": config.output.dir} if made_from == "model" else {"data__train": [str(rows)]}
        with pytest.raises(OutputError, match="which this run needs; choose another folder"):
            luthier.Factory().fine_tune(run_config(**changes), restart=True)
        rows.unlink()
    assert sorted(Path(config.output.dir).rglob("*")) == before


def test_the_template_options_of_a_run_are_served(run_config: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "greeting.jinja"
    source = json.loads((tiny / "tokenizer_config.json").read_text()).get("chat_template")
    source = source or (tiny / "chat_template.jinja").read_text()
    template.write_text("{{ greeting | default('') }}" + source, encoding="utf-8")
    model = {"path": str(tiny), "chat_template": str(template), "template_options": {"greeting": "Hail. "}}
    config = run_config(model=model)
    luthier.Factory().fine_tune(config)
    asked = [Message(role="user", content="x")]
    for place in (config.output.dir, f"{config.output.dir}/checkpoint-4"):
        assert ModelLoader().renderer(ModelConfig(path=place)).prompt_text(asked).startswith("Hail. ")
    second = run_config(model=config.output.dir, output__dir=str(tmp_path / "second"))
    luthier.Factory().fine_tune(second)
    assert luthier.read_config(tmp_path / "second" / "config.yaml").model.template_options == {"greeting": "Hail. "}


def test_a_run_is_found_from_any_folder(
    run_config: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    config = run_config(model=tiny.name)
    luthier.Factory().fine_tune(config)
    monkeypatch.chdir(tmp_path)
    assert ModelLoader().load(ModelConfig(path=config.output.dir))


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


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"train": {"epochs": 2}}, "rank 1 was given another train than rank 0"),
        ({"data": "cd" * 32}, "the processes have prepared different rows"),
    ],
)
def test_processes_must_have_the_same_config_and_rows(other: dict[str, Any], said: str | None) -> None:
    """The first process says a hash of each, and the other its own."""
    heard: list[Any] = []

    def claim(train: Any, data: str) -> Claim:
        return Claim(cast(RunFolder, None), {"model": {"path": "x"}, "train": train}, data, [])

    def same(strategy: Any, made: Claim) -> None:
        require_same(strategy.gather, made.config, made.data)

    listening = SimpleNamespace(gather=lambda mine: heard.append(mine) or [mine])
    same(listening, claim({"epochs": 1}, "ab" * 32))
    heard.reverse()
    speaking = SimpleNamespace(gather=lambda mine: [heard.pop(), mine])
    with pytest.raises((ConfigError, DataError), match=said) if said else nullcontext():
        same(speaking, claim(**({"train": {"epochs": 1}, "data": "ab" * 32} | other)))
