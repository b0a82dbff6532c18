"""Axolotl's configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.migrate.tools import Translation, translation
from tests.migrate.test_llamafactory import at, line

QLORA: dict[str, Any] = {
    "base_model": "M",
    "model_type": "AutoModelForCausalLM",
    "load_in_4bit": True,
    "strict": False,
    "datasets": [{"path": "data/plain.json", "type": "alpaca"}],
    "dataset_prepared_path": "last_run_prepared",
    "val_set_size": 0.1,
    "output_dir": "outputs/out",
    "adapter": "qlora",
    "lora_model_dir": None,
    "sequence_len": 256,
    "sample_packing": True,
    "pad_to_sequence_len": True,
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "wandb_project": None,
    "gradient_accumulation_steps": 4,
    "micro_batch_size": 2,
    "num_epochs": 4,
    "optimizer": "paged_adamw_32bit",
    "lr_scheduler": "cosine",
    "cosine_min_lr_ratio": 0.1,
    "learning_rate": "2e-4",
    "train_on_inputs": False,
    "group_by_length": False,
    "bf16": "auto",
    "tf32": False,
    "gradient_checkpointing": True,
    "flash_attention": True,
    "warmup_steps": 10,
    "evals_per_epoch": 4,
    "saves_per_epoch": 1,
    "weight_decay": 0.0,
}


def axolotl(tiny: Path, **changes: Any) -> Translation:
    """The basic config with changes; None takes a key away."""
    given = QLORA | {"base_model": str(tiny)} | changes
    tree = {key: value for key, value in given.items() if value is not None or key in ("lora_model_dir",)}
    return translation("axolotl", tree, source="ax.yml")


def test_a_usual_config(rows: Path, tiny: Path) -> None:
    found = axolotl(tiny)
    assert found.tree == {
        "model": {"path": str(tiny)},
        "data": {
            "train": [{"path": "data/plain.json", "format": "alpaca"}],
            "held_out": 0.1,
            "max_length": 256,
            "over_length": "drop",
            "bad_rows": "drop",
        },
        "adapter": {
            "type": "qlora", "bits": 4, "target_modules": "all-linear", "dropout": 0.05, "rank": 32, "alpha": 16,
        },
        "objective": {"type": "sft"},
        "train": {
            "learning_rate": 2e-4, "weight_decay": 0.0, "epochs": 4.0, "batch_size": 8, "optimizer": "adamw",
            "schedule": {"type": "cosine", "minimum": 0.1}, "warmup_steps": 10.0, "gradient_checkpointing": True,
            "evaluate_every": "0.25 epochs", "save_every": "1 epochs", "seed": 42,
        },
        "output": {"dir": "outputs/out", "final": "last"},
    }  # fmt: skip
    found.config()
    assert {one.key for one in found.lines} >= set(QLORA) - {"wandb_project"}
    said = {one.key: one.note for one in found.outcome("changed")}
    assert (
        "### Instruction" in said["datasets"]
        and "not paged" in said["optimizer"]
        and "raise it" in said["sample_packing"]
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adapter": None, "load_in_4bit": None}, {"adapter": {"type": "full"}}),
        ({"adapter": "lora", "load_in_4bit": None, "load_in_8bit": True}, {"adapter.type": "qlora", "adapter.bits": 8}),
        ({"adapter": "lora", "load_in_4bit": None}, {"adapter.type": "lora", "adapter.rank": 32}),
        ({"train_on_inputs": True}, {"objective.type": "pretrain"}),
        ({"excess_length_strategy": "truncate"}, {"data.over_length": "truncate"}),
        ({"rl": "dpo", "rl_beta": 0.2, "datasets": [{"path": "data/pairs.json", "type": "chat_template.default"}]},
         {"objective.type": "dpo", "objective.beta": 0.2, "adapter.dropout": 0.0,
          "data.train": [{"path": "data/pairs.json", "format": "preference"}]}),
        ({"rl": "ipo", "datasets": [{"path": "data/pairs.json", "type": "chat_template.default"}]},
         {"objective": {"type": "dpo", "loss_type": "ipo"}}),
        ({"datasets": [{"path": "data/texts.jsonl", "type": "completion", "field": "body"}]},
         {"objective.type": "pretrain",
          "data.train": [{"path": "data/texts.jsonl", "format": "text", "columns": {"text": "body"}}]}),
        ({"datasets": [{"path": "data/talks.json", "type": "chat_template", "field_messages": "conversations",
                        "message_property_mappings": {"role": "from", "content": "value"}}]},
         {"data.train": [{"path": "data/talks.json", "format": "sharegpt"}]}),
        ({"datasets": [{"path": "json", "data_files": ["data/messages.jsonl"], "type": "chat_template"}],
          "chat_template": "chatml"}, {"data.train": [{"path": "data/messages.jsonl", "format": "messages"}]}),
        ({"datasets": [{"path": "data/plain.json", "type": "oasst"}]},
         {"data.train": [{"path": "data/plain.json", "format": "prompt-completion",
                          "columns": {"prompt": "INSTRUCTION", "completion": "RESPONSE"}}]}),
        ({"datasets": [{"path": "data/plain.json", "type": {"field_instruction": "q", "field_output": "a"}}]},
         {"data.train": [{"path": "data/plain.json", "format": "alpaca", "columns": {
             "instruction": "q", "input": "input", "output": "a", "system": "system"}}]}),
        ({"rl": "kto", "datasets": [{"path": "data/plain.json", "type": {"field_label": "good"}}]},
         {"data.train": [{"path": "data/plain.json", "format": "labelled", "columns": {
             "prompt": "prompt", "completion": "completion", "label": "good", "system": "system"}}]}),
        ({"rl": "dpo", "datasets": [{"path": "data/pairs.json", "type": "chat_template.default",
                                     "field_chosen": "good"}]},
         {"data.train": [{"path": "data/pairs.json", "format": "preference", "columns": {
             "messages": "messages", "chosen": "good", "rejected": "rejected", "system": "system"}}]}),
        ({"rl": "dpo", "datasets": [{"path": "data/pairs.json", "type": "chatml.intel"}]},
         {"data.train": [{"path": "data/pairs.json", "format": "preference"}]}),
        ({"warmup_steps": None}, {"train.warmup_steps": 0.03}),
        ({"val_set_size": 0, "evals_per_epoch": None}, {"train.evaluate_every": None, "data.held_out": 0.0}),
        ({"evals_per_epoch": None}, {"train.evaluate_every": "1 epoch"}),
        ({"saves_per_epoch": None, "save_steps": 50}, {"train.save_every": "50 steps"}),
        ({"use_tensorboard": True}, {"output.trackers": ["tensorboard"]}),
        ({"bf16": True}, {"train.precision": "bf16"}),
        ({"lora_model_dir": "tuned"}, {"model.path": "tuned"}),
    ],
)  # fmt: skip
def test_meanings(rows: Path, tiny: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = axolotl(tiny, **changes)
    assert {path: at(found, path) for path in expected} == expected
    found.config()


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"datasets": [{"path": "tatsu-lab/alpaca", "type": "alpaca"}]}, "datasets", "is not on this machine"),
        ({"datasets": [{"path": "data/plain.json", "type": "jeopardy"}]}, "datasets", "'jeopardy' cannot be"),
        ({"datasets": [{"path": "data/plain.json", "type": "alpaca", "shard": 3}]}, "datasets", "'shards'"),
        ({"datasets": [{"path": "data/plain.json", "type": "input_output"}]}, "datasets", "with train: false"),
        ({"datasets": [{"path": "data/plain.json", "type": {"field_output": "a", "field_inptu": "b"}}]}, "datasets",
         "did you mean 'field_input'"),
        ({"datasets": [{"path": "data/plain.json", "type": {"system_prompt": "Be."}}]}, "datasets", "a key `system`"),
        ({"saves_per_epoch": 2, "save_steps": 5}, "saves_per_epoch", "keep one of both"),
        ({"rl": "dpo", "rl_beta": 0.1, "dpo_beta": 0.2}, "dpo_beta", "keep one of both"),
        ({"rl": "grpo"}, "rl", "must be one of dpo"),
        ({"chat_template": "llama3"}, "chat_template", "does not"),
        ({"special_tokens": {"pad_token": "<pad>"}}, "special_tokens", "the tokenizer stays"),
        ({"deepspeed": "zero3.json"}, "deepspeed", "KEY=null"),
        ({"unfrozen_parameters": ["lm_head"]}, "unfrozen_parameters", "type: freeze"),
        ({"val_set_size": 50}, "val_set_size", "a share below 1"),
        ({"lora_rr": 3}, "lora_rr", "did you mean 'lora_r'"),
        ({"optimizer": "came_pytorch"}, "optimizer", "what can be translated"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size", "has no such key"),
        ({"micro_batch_size": "two"}, "micro_batch_size", "must be a number, not 'two'"),
    ],
)  # fmt: skip
def test_refused(rows: Path, tiny: Path, changes: dict[str, Any], key: str, said: str) -> None:
    outcome, note = line(axolotl(tiny, **changes), key)
    assert outcome == "refused" and said in note
