"""Configs of other tools, in the style of their users, with rows and a model that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.migrate.tools import Translation, translation
from tests.conftest import chat_rows

ALPACA = [
    {"instruction": f"Say {i}.", "input": "Shortly." * (i % 2), "output": f"{i}!", "system": "Be kind."}
    for i in range(16)
]
TALKS = [
    {
        "conversations": [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": f"It is {i}."}],
        "tools": "",
    }
    for i in range(16)
]
PAIRS = [{"instruction": f"Add 1 to {i}.", "input": "", "chosen": f"{i + 1}", "rejected": f"{i}"} for i in range(16)]
INFO: dict[str, Any] = {
    "plain": {"file_name": "plain.json"},
    "renamed": {"file_name": "renamed.jsonl", "columns": {"prompt": "ask", "response": "reply", "system": "rules"}},
    "talks": {"file_name": "talks.json", "formatting": "sharegpt"},
    "messages": {
        "file_name": "messages.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
    },
    "verdicts": {
        "file_name": "verdicts.json",
        "columns": {"prompt": "instruction", "response": "output", "kto_tag": "good"},
    },
    "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "text"}},
    "remote": {"hf_hub_url": "somebody/rows"},
}
BASIC: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 4,
    "lora_target": "all",
    "dataset": "plain",
    "cutoff_len": 128,
    "output_dir": "saves/run",
    "logging_steps": 1,
    "overwrite_cache": True,
    "report_to": "none",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": "1e-3",
    "num_train_epochs": 2.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "ddp_timeout": 180000000,
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data/dataset_info.json and the files that it names."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    files: dict[str, list[Any]] = {
        "plain.json": ALPACA,
        "renamed.jsonl": [{"ask": r["instruction"], "reply": r["output"], "rules": r["system"]} for r in ALPACA],
        "talks.json": TALKS,
        "messages.jsonl": chat_rows(16),
        "pairs.json": PAIRS,
        "verdicts.json": [{**row, "good": i % 2 == 0} for i, row in enumerate(ALPACA)],
        "texts.jsonl": [{"text": f"The number {i} follows {i - 1}. " * 3} for i in range(16)],
    }
    for name, values in files.items():
        lines = [json.dumps(value) for value in values]
        text = "\n".join(lines) if name.endswith("l") else f"[{', '.join(lines)}]"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(INFO), encoding="utf-8")
    return folder


@pytest.fixture
def llamafactory(rows: Path, tiny: Path) -> Callable[..., Translation]:
    """Translates a LLaMA-Factory config: the basic one with changes; None takes a key away."""

    def make(**changes: Any) -> Translation:
        given = {"model_name_or_path": str(tiny)} | BASIC | changes
        tree = {key: value for key, value in given.items() if value is not None}
        return translation("llamafactory", tree, source="lf.yaml")

    return make
