"""`luthier migrate`, and configs of other tools in `train` and `check`, as their users would type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Said
from tests.cli.test_commands import done
from tests.cli.test_wrong_input import refused
from tests.migrate.conftest import BASIC, rows  # noqa: F401

Command = Callable[..., Said]


@pytest.fixture
def lf(rows: Path, tiny: Path) -> Callable[..., str]:  # noqa: F811
    """Writes the basic config of LLaMA-Factory with changes, and names its file."""

    def write(**changes: Any) -> str:
        Path("lf.yaml").write_text(yaml.safe_dump({"model_name_or_path": str(tiny)} | BASIC | changes))
        return "lf.yaml"

    return write


def test_train_runs_it_as_it_stands(luthier: Command, lf: Callable[..., str]) -> None:
    """The report, then the run, whose folder holds the native config; with their overrides and ours."""
    out = done(luthier("train", lf(template="qwen", val_size=0.2), "learning_rate=5e-4", "train.max_steps=2"))
    assert "lf.yaml: a config of LLaMA-Factory 0.9.5" in out
    assert "changed in meaning" in out and "the model's own chat template, which writes <|im_start|> too" in out
    assert "data/plain.json: 16 rows, format alpaca (as the config says)" in out and "for 2 steps" in out
    assert "⟦1!<|im_end|>⟧" in out or "⟦0!<|im_end|>⟧" in out
    kept = yaml.safe_load(Path("saves/run/config.yaml").read_text())
    assert kept["train"]["learning_rate"] == 5e-4 and kept["adapter"]["rank"] == 4
    assert Path("saves/run/adapter_model.safetensors").is_file()
    assert "ok: 16 rows" in done(luthier("check", lf()))
    assert done(luthier("chat", "saves/run", "--prompt", "Say 1.", "--max-new-tokens", 3))


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        ({"stage": "dpo", "dataset": "pairs"}, "dpo"),
        ({"stage": "kto", "dataset": "verdicts"}, "kto"),
        ({"stage": "rm", "dataset": "pairs"}, "reward"),
        ({"stage": "pt", "dataset": "texts", "finetuning_type": "full"}, "pretrain"),
        ({"dataset": "talks", "finetuning_type": "freeze", "freeze_trainable_layers": 1}, "sft"),
    ],
)
def test_every_stage_trains(luthier: Command, lf: Callable[..., str], changes: dict[str, Any], objective: str) -> None:
    done(luthier("train", lf(**changes, learning_rate=1e-4), "max_steps=2"))
    record = yaml.safe_load(Path("saves/run/config.yaml").read_text())
    assert record["objective"]["type"] == objective
    assert json.loads(Path("saves/run/metrics.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_two_processes_make_their_steps_larger(luthier: Command, lf: Callable[..., str]) -> None:
    """As their batch is counted: rows of each device."""
    import subprocess
    import sys

    words = [sys.executable, "-m", "luthier", "train", lf(), "max_steps=1", "--devices", "2"]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ran.stdout.count("a config of LLaMA-Factory") == 1
    assert yaml.safe_load(Path("saves/run/config.yaml").read_text())["train"]["batch_size"] == 8


def test_migrate_writes_what_check_accepts(luthier: Command, lf: Callable[..., str]) -> None:
    out = done(luthier("migrate", lf(), "-o", "luthier.yaml"))
    assert "same meaning" in out and "not needed" in out and "check it     luthier check luthier.yaml" in out
    text = Path("luthier.yaml").read_text()
    assert text.startswith("# LLaMA-Factory 0.9.5 in the words of Luthier, from lf.yaml\n# changed: cutoff_len: 128 ->")
    assert "ok: 16 rows" in done(luthier("check", "luthier.yaml"))
    refused(luthier("migrate", "lf.yaml", "-o", "luthier.yaml"), "luthier.yaml exists; name a new file")
    assert "batch_size: 4" in done(luthier("migrate", "lf.yaml"))
    assert "batch_size: 12" in done(luthier("migrate", "lf.yaml", "--devices", 3))


def test_refused_keys_write_nothing_unless_said(luthier: Command, lf: Callable[..., str]) -> None:
    path = lf(deepspeed="z3.json", mask_history=True)
    said = luthier("migrate", path, "-o", "luthier.yaml")
    refused(said, "lf.yaml:", "deepspeed: ", "mask_history: ", "train: false")
    assert not Path("luthier.yaml").exists() and "refused" in said.out
    done(luthier("migrate", path, "-o", "luthier.yaml", "--partial"))
    text = Path("luthier.yaml").read_text()
    assert "# refused: deepspeed: 'z3.json' (" in text and "# refused: mask_history: True (" in text
    assert "ok: 16 rows" in done(luthier("check", "luthier.yaml"))
    refused(luthier("train", path), "deepspeed: ", "mask_history: ")
    assert not Path("saves").exists()
    assert "ok: 16 rows" in done(luthier("check", path, "deepspeed=null", "mask_history=false"))


def test_the_other_tools(luthier: Command, lf: Callable[..., str], tiny: Path) -> None:
    lf()
    ax = {"base_model": str(tiny), "datasets": [{"path": "data/messages.jsonl", "type": "chat_template"}]}
    Path("ax.yml").write_text(
        yaml.safe_dump(ax | {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-3})
    )
    assert "ax.yml: a config of Axolotl" in done(luthier("check", "ax.yml"))
    trl = {"model_name_or_path": str(tiny), "dataset_name": "data/pairs.json", "use_peft": True, "output_dir": "run"}
    Path("trl.yaml").write_text(yaml.safe_dump(trl))
    refused(luthier("train", "trl.yaml"), "TRL's command says what is learnt", "--method sft | dpo")
    done(luthier("migrate", "trl.yaml", "--method", "dpo", "-o", "dpo.yaml"))
    assert "ok: 16 rows" in done(luthier("check", "dpo.yaml"))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            "{model: m, data: {train: [r.jsonl]}, output: run}",
            [],
            ["not a config of another tool", "--from llamafactory"],
        ),
        ("{stage: sft, base_model: m}", [], ["has keys of", "--from"]),
        ("{stage: sft}", ["--from", "llama-factory"], ["did you mean 'llamafactory'"]),
        ("{dataset_name: d}", ["--from", "trl", "--method", "ppo"], ["no method 'ppo'", "sft | dpo"]),
        ("[1, 2]", [], ["a config is a mapping"]),
        ("{stage: sft, stage: dpo}", [], ["the key 'stage' is given twice"]),
        ("{stage: sft, modle_name_or_path: m}", [], ["modle_name_or_path", "did you mean 'model_name_or_path'"]),
        ("{stage: sft, model_name_or_path: m, dataset: d}", [], ["dataset_dir", "no such file"]),
    ],
)
def test_wrong_input(
    luthier: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text)
    refused(luthier("migrate", "x.yaml", "-o", "out.yaml", *options), "x.yaml", *words)
    assert not Path("out.yaml").exists()
    refused(luthier("migrate", "nowhere.yaml"), "nowhere.yaml: no such file")
