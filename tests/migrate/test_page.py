"""`docs/migration.md`: each line of its tables is what a translation does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from luthier.migrate.base import table
from luthier.migrate.tools import translation
from tests.house.source import ROOT

PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
VALUES: dict[str, Any] = {
    "model_name_or_path": "m", "base_model": "m", "stage": "dpo", "finetuning_type": "lora", "lora_rank": 4,
    "lora_r": 4, "lora_alpha": 8, "lora_target": "all", "lora_target_modules": ["q_proj"],
    "additional_target": "lm_head", "loraplus_lr_ratio": 4, "dataset": "plain", "eval_dataset": "plain",
    "val_size": 0.1, "val_set_size": 0.1, "test_datasets": [{"path": "data/plain.json", "type": "alpaca"}],
    "cutoff_len": 8, "sequence_len": 8, "max_length": 8, "pref_beta": 0.1, "pref_ftx": 0.1,
    "neftune_noise_alpha": 5, "optim": "adamw_torch", "optimizer": "adamw_torch", "lr_scheduler_type": "linear",
    "lr_scheduler": "linear", "num_train_epochs": 2, "num_epochs": 2, "max_steps": 3, "warmup_ratio": 0.1,
    "warmup_steps": 3, "bf16": True, "fp16": True, "disable_gradient_checkpointing": True,
    "save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True, "output_dir": "o",
    "rl": "dpo", "adapter": "lora", "lora_target_linear": True,
    "datasets": [{"path": "data/plain.json", "type": "alpaca"}], "excess_length_strategy": "drop",
    "micro_batch_size": 2, "saves_per_epoch": 2, "evals_per_epoch": 2, "dataset_name": "data/plain.json",
    "use_peft": True, "assistant_only_loss": True, "beta": 0.2, "num_generations": 4,
    "reward_model_name_or_path": "judge",
}  # fmt: skip
NEEDED = {
    "llamafactory": {"model_name_or_path": "m", "dataset": "plain"},
    "axolotl": {"base_model": "m", "datasets": VALUES["datasets"], "adapter": "lora"},
    "trl": {"model_name_or_path": "m", "dataset_name": "data/plain.json", "use_peft": True},
}


def lines() -> list[tuple[str, list[str], list[str], str]]:
    """Tool, keys that alone go there, keys that take part, and where."""
    found, tools = [], {"LLaMA-Factory": "llamafactory", "Axolotl": "axolotl", "TRL": "trl"}
    for title, rows in re.findall(
        r"^(LLaMA-Factory|Axolotl|TRL):\n\n\| key \| becomes \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M
    ):
        for row in rows.splitlines():
            left, right = row.strip("| ").split(" | ")
            alone, _, along = left.partition(" with ")
            found.append((tools[title], *(re.findall(r"`([^`]+)`", part) for part in (alone, along)), right.strip("`")))
    return found


@pytest.mark.parametrize(("tool", "alone", "along", "to"), lines())
def test_each_line(rows: Path, tool: str, alone: list[str], along: list[str], to: str) -> None:
    assert set(alone + along) <= set(table(tool).keys)
    for key in alone:
        method = "grpo" if to in ("objective.samples", "objective.rewards") else "dpo" if key == "beta" else "sft"
        tree = NEEDED[tool] | {key: VALUES[key]}
        if key in ("pref_beta", "pref_ftx"):
            tree |= {"stage": "dpo", "dataset": "pairs"}
        if key == "num_generations":
            tree |= {"reward_model_name_or_path": "judge"}
        if tool == "trl" and key == "datasets":
            tree = {"model_name_or_path": "m", "datasets": [{"path": "data/plain.json"}]}
        found = translation(tool, tree, source="x.yaml", method=method)
        line = next(one for one in found.lines if one.key == key)
        assert line.outcome in ("mapped", "changed") and to in line.to, line


def test_the_page_has_lines_of_each_tool() -> None:
    assert {tool for tool, *_ in lines()} == {"llamafactory", "axolotl", "trl"} and len(lines()) > 40
