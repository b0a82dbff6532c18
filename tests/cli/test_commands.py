"""Every verb once, as a user would type it, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Said
from tests.conftest import chat_rows

Command = Callable[..., Said]


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of a short run, with its rows beside it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat_rows(16)), encoding="utf-8")
    tree: dict[str, Any] = {"model": str(tiny), "data": {"train": ["rows.jsonl"], "held_out": 0.2}, "output": "run"}
    tree["train"] = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    Path("c.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Path("c.yaml")


def done(said: Said) -> str:
    """What a command printed, if it went well."""
    assert said.status == 0, said.out + said.err
    assert said.err == ""
    return said.out


@pytest.mark.usefixtures("config")
def test_train_then_look_at_the_result(luthier: Command, tiny: Path) -> None:
    out = done(luthier("train", "c.yaml", "--train.learning-rate", "2e-3", "output.keep=1"))
    assert "rows.jsonl: 16 rows, format messages (recognised)" in out
    assert "16 read, 16 kept, 0 dropped" in out and "for 3 steps" in out and "luthier chat run" in out
    assert "⟦It is 0.<|im_end|>⟧" in out, "trained tokens are marked"
    assert yaml.safe_load(Path("run/config.yaml").read_text())["train"]["learning_rate"] == 2e-3
    assert [path.name for path in Path("run").glob("checkpoint-*")] == ["checkpoint-3"]
    again = luthier("train", "c.yaml", "train.learning_rate=2e-3", "output.keep=1")
    assert again.status == 2 and "finished run; add --restart" in again.err
    done(luthier("train", "c.yaml", "--restart"))

    table = done(luthier("compare", tiny, "run", "--data", "rows.jsonl", "--show", 2, "--max-new-tokens", 4))
    assert "rows.jsonl: 16 rows (paired bootstrap over rows)" in table
    assert "loss" in table and "token_f1" in table and table.count("expected ") == 2
    assert any(verdict in table for verdict in ("better", "worse", "cannot tell"))

    measured = done(luthier("evaluate", "run", "--data", "rows.jsonl", "--limit", 3, "-o", "answers.jsonl"))
    assert "exact_match" in measured and "chrf" in measured
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3 and answers[0]["reference"] == "It is 0."

    again = done(luthier("evaluate", "run", "--data", "rows.jsonl", "--limit", 2, "-o", "answers.jsonl"))
    assert "exact_match" in again and len(Path("answers.jsonl").read_text().splitlines()) == 2

    refused = luthier("train", "c.yaml", "--dry-run")
    assert refused.status == 2 and "finished run; add --restart" in refused.err
    assert done(luthier("chat", "run", "--prompt", "Hello", "--max-new-tokens", 3)).count("\n") >= 1
    assert done(luthier("chat", "run/checkpoint-3", "--prompt", "Hello", "--max-new-tokens", 3))
    assert "run on" in done(luthier("models", "list", "--runs", "."))


@pytest.mark.usefixtures("config")
def test_looking_writes_nothing(luthier: Command, tiny: Path) -> None:
    before = sorted(Path().rglob("*"))
    dry = done(luthier("train", "c.yaml", "--dry-run", "train.epochs=1"))
    assert "epochs: 1.0" in dry and "nothing was trained or written" in dry
    assert "ok: " in done(luthier("check", "c.yaml", "data.max_length=200"))
    shown = done(luthier("data", "show", "rows.jsonl", "--model", tiny, "--row", 3))
    assert "format messages (recognised)" in shown and "rows.jsonl:3" in shown and "<|im_end|>⟧" in shown
    assert sorted(Path().rglob("*")) == before


def test_what_can_be_configured(luthier: Command) -> None:
    assert "default: 0.0002" in done(luthier("config", "explain", "train.learning_rate"))
    assert "Inner size" in done(luthier("config", "explain", "adapter.rank"))
    schema = json.loads(done(luthier("config", "schema")))
    assert set(schema["properties"]) >= {
        "model",
        "data",
        "adapter",
        "objective",
        "train",
        "parallel",
        "evaluate",
        "output",
    }
    listed = done(luthier("plugins", "adapter"))
    assert "lora" in listed and "full" in listed and "sft" not in listed


def test_what_this_machine_has(luthier: Command) -> None:
    report = done(luthier("doctor"))
    for word in ("torch", "precision (auto)", "memory", "smollm2-135m-instruct", "luthier home"):
        assert word in report
    assert "smollm2-135m-instruct" in done(luthier("models", "list"))


def test_a_chat_keeps_its_history(luthier: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.inference.hf import HfEngine

    heard: list[list[str]] = []

    def stream(self: HfEngine, prompt: Any, sampling: Any) -> Any:
        heard.append([message.content for message in prompt.messages])
        yield f"answer {len(heard)}"

    typed = iter(["one", "", "two", "/reset", "three"])

    def ask(prompt: str = "") -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(HfEngine, "stream", stream)
    monkeypatch.setattr("builtins.input", ask)
    assert done(luthier("chat", tiny, "--system", "Be short.")) == "answer 1\nanswer 2\nanswer 3\n"
    assert heard == [
        ["Be short.", "one"],
        ["Be short.", "one", "answer 1", "two"],
        ["Be short.", "three"],
    ]
