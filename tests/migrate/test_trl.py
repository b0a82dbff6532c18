"""TRL's configs, whose command is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.migrate.tools import Translation, translation
from tests.migrate.test_llamafactory import at, line

BASIC: dict[str, Any] = {
    "model_name_or_path": "m",
    "dataset_name": "data/messages.jsonl",
    "output_dir": "run",
    "learning_rate": "2.0e-4",
    "num_train_epochs": 1,
    "packing": True,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "logging_steps": 25,
    "eval_strategy": "no",
    "use_peft": True,
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_target_modules": ["q_proj", "v_proj"],
}


def trl(method: str, **changes: Any) -> Translation:
    """The basic config with changes; None takes a key away."""
    given = {key: value for key, value in (BASIC | changes).items() if value is not None}
    return translation("trl", given, source="trl.yaml", method=method)


def test_a_usual_config(rows: Path) -> None:
    found = trl("sft", assistant_only_loss=True)
    assert found.tree == {
        "model": {"path": "m", "dtype": "float32"},
        "data": {
            "train": [{"path": "data/messages.jsonl"}], "held_out": 0.0, "over_length": "truncate", "max_length": 1024,
            "bad_rows": "drop",
        },
        "adapter": {
            "type": "lora", "dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "rank": 32, "alpha": 16,
        },
        "objective": {"type": "sft"},
        "train": {
            "batch_size": 16, "epochs": 1.0, "warmup_steps": 0.0, "schedule": "linear", "optimizer": "adamw",
            "save_every": "500 steps", "evaluate_every": None, "learning_rate": 2e-4, "gradient_checkpointing": True,
            "seed": 42,
        },
        "output": {"final": "last", "dir": "run"},
    }  # fmt: skip
    found.config()
    assert set(BASIC) <= {one.key for one in found.lines}


def test_they_learn_every_token_of_a_conversation_unless_told_otherwise(rows: Path) -> None:
    found = trl("sft")
    assert at(found, "objective.type") == "pretrain"
    pairs = [{"prompt": f"What is {i}?", "completion": f"{i}."} for i in range(4)]
    (rows / "pc.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert at(trl("sft", dataset_name="data/pc.jsonl"), "objective.type") == "sft"
    assert at(trl("sft", dataset_name="data/pc.jsonl", completion_only_loss=False), "objective.type") == "pretrain"


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("dpo", {"learning_rate": None}, {"train.learning_rate": 1e-6, "adapter.dropout": 0.0, "objective.beta": 0.1}),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.1, "beta": 0.3},
         {"objective": {"type": "dpo", "loss_type": "robust", "label_smoothing": 0.1, "beta": 0.3}}),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
         {"objective.loss_type": "sigmoid", "objective.sft_weight": 0.5}),
        ("kto", {"undesirable_weight": 0.5}, {"objective": {"type": "kto", "undesirable_weight": 0.5, "beta": 0.1}}),
        ("reward", {"center_rewards_coefficient": 0.01}, {"objective": {"type": "reward", "center_weight": 0.01}}),
        ("grpo", {"reward_model_name_or_path": "judge", "max_completion_length": 64, "num_generations": 4},
         {"objective": {"type": "grpo", "rewards": [{"type": "model", "path": "judge"}], "samples": 4, "beta": 0.0,
                        "updates": 1, "max_new_tokens": 64}, "train.batch_size": 4}),
        ("rloo", {"reward_model_name_or_path": "judge"}, {"objective.samples": 2, "objective.beta": 0.05}),
        ("sft", {"use_peft": None}, {"adapter": {"type": "full"}}),
        ("sft", {"load_in_4bit": True}, {"adapter.type": "qlora", "adapter.bits": 4}),
        ("sft", {"lora_target_modules": "all-linear"}, {"adapter.target_modules": "all-linear"}),
        ("sft", {"dataset_name": None, "datasets": [{"path": "json", "data_files": "data/plain.json",
                                                     "columns": ["instruction", "output"]}]},
         {"data.train": [{"path": "data/plain.json", "columns": {"instruction": "instruction", "output": "output"}}]}),
        ("sft", {"torch_dtype": "bfloat16"}, {"model.dtype": "bfloat16"}),
    ],
)  # fmt: skip
def test_meanings(rows: Path, method: str, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = trl(method, **changes)
    assert {path: at(found, path) for path in expected} == expected
    found.config()


@pytest.mark.parametrize(
    ("method", "changes", "key", "said"),
    [
        ("sft", {"dataset_name": "trl-lib/Capybara"}, "dataset_name", "is not a file on this machine"),
        ("sft", {"datasets": [{"path": "data/plain.json"}]}, "datasets", "keep one of both"),
        ("sft", {"eval_strategy": "steps"}, "eval_strategy", "data.held_out"),
        ("sft", {"loss_type": "dft"}, "loss_type", "must be one of nll"),
        ("dpo", {"loss_type": "apo_zero"}, "loss_type", "sigmoid, hinge, ipo"),
        ("dpo", {"loss_type": ["sigmoid"], "loss_weights": [2.0]}, "loss_weights", "1.0"),
        ("dpo", {"sync_ref_model": True}, "sync_ref_model", "stays the model"),
        ("grpo", {"reward_funcs": ["accuracy_reward"]}, "reward_funcs", "objective.rewards"),
        ("grpo", {"reward_model_name_or_path": "j", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
         "per_device_train_batch_size", "no multiple of num_generations"),
        ("grpo", {"reward_model_name_or_path": "j", "top_p": 0.9}, "top_p", "whole distribution"),
        ("sft", {"torch_dtype": "bfloat16", "dtype": "float16"}, "dtype", "torch_dtype says what model.dtype is too"),
        ("sft", {"packin": True}, "packin", "did you mean 'packing'"),
    ],
)  # fmt: skip
def test_refused(rows: Path, method: str, changes: dict[str, Any], key: str, said: str) -> None:
    outcome, note = line(trl(method, **changes), key)
    assert outcome == "refused" and said in note


def test_no_limit_of_length_cannot_be_written(rows: Path) -> None:
    found = translation("trl", BASIC | {"max_length": None}, source="trl.yaml", method="sft")
    assert line(found, "max_length")[0] == "refused"
