"""A small model's config, with no weights beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import parse_config
from luthier.planner.shape import Shape

SIZES = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "tie_word_embeddings": False,
}


@pytest.fixture
def shape(tmp_path: Path) -> Callable[..., Shape]:
    """Of a model of these sizes, under a config with these changes."""

    def make(precision: Any = "fp32", sizes: dict[str, Any] | None = None, **changes: Any) -> Shape:
        (tmp_path / "config.json").write_text(json.dumps(SIZES | (sizes or {})), encoding="utf-8")
        tree = {"model": str(tmp_path), "data": {"train": ["rows.jsonl"]}, "output": "x", "adapter": "full"}
        return Shape(parse_config(tree | changes), precision)

    return make
