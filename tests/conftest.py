"""Tiny models, tokenizers and rows that every test may use. Nothing here needs the network."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from threads, and lose on a busy machine

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "How do I train a model? Run luthier train with a config file.",
    "user assistant system tool weather in London: it rains, 12 degrees.",
    "Numbers 0 1 2 3 4 5 6 7 8 9, punctuation . , ; : ! ? and some words again and again.",
]


def build_tokenizer(special: list[str] = SPECIAL, template: str = CHATML, eos: str = "<|im_end|>") -> Any:
    """A byte-level BPE of a few hundred tokens with the given control tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=special[0], chat_template=template
    )


def build_model(vocabulary: int, seed: int = 0, **changes: Any) -> Any:
    """A random two-layer Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | changes)))


@pytest.fixture(autouse=True)
def own_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rendered rows, answers of models, runs and versions are kept by each test for itself."""
    for room in ("system.kept", "registry.index"):
        monkeypatch.setattr(f"luthier.{room}.home", lambda: tmp_path / "home")


@pytest.fixture(autouse=True)
def short_endings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hundreds of runs within tests, those marked `whole` alone end with a certificate and a picture."""
    if request.node.get_closest_marker("whole") is None:
        for name in ("of_run", "plot_loss"):
            monkeypatch.setattr(f"luthier.factory.{name}", lambda *_: None)


@pytest.fixture(scope="module", autouse=True)
def old_objects() -> None:
    """Are not looked at by every collection, of which each run asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny tokenizer."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with the tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a random encoder of two layers that knows 32 positions."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("models") / "encoder"
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Different rows of unequal lengths in the canonical layout."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} and {i * 7 % 13}?" + " Tell me more." * (i % 4)},
                {"role": "assistant", "content": f"It is {i * 3 % 17}." + " And so on." * (i * i % 7)},
            ]
        }
        for i in range(count)
    ]


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSON Lines and returns the file."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run_config(tiny: Path, tmp_path: Path, write_rows: Callable[..., Path]) -> Callable[..., Any]:
    """Makes a config of a tiny run; keyword arguments are overrides such as `train__max_steps=3`."""
    from luthier.config import read_config

    def make(rows: list[Any] | None = None, **overrides: object) -> Any:
        data = write_rows(chat_rows(24) if rows is None else rows, "train.jsonl")
        tree = {
            "model": str(tiny),
            "data": {"train": [str(data)], "held_out": 0.2, "max_length": 256},
            "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3},
            "output": str(tmp_path / "run"),
        }
        (tmp_path / "config.json").write_text(json.dumps(tree), encoding="utf-8")
        changes = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in overrides.items()]
        return read_config(tmp_path / "config.json", changes)

    return make


@pytest.fixture
def online(run_config: Callable[..., Any]) -> Callable[..., Any]:
    """A config of a tiny online run."""

    def make(kind: str, rows: Any = None, settings: dict[str, Any] | None = None, **overrides: Any) -> Any:
        objective = {
            "type": kind,
            "rewards": [{"type": "regex", "pattern": "[kqx]"}],
            "max_new_tokens": 8,
            "samples": 6,
        }
        asked = [{"prompt": f"What is {i}?" + " Say it." * (i % 3), "answer": str(i)} for i in range(20)]
        common = {
            "objective": objective | (settings or {}), "train__batch_size": 4, "train__max_steps": 20,
            "train__epochs": 20, "train__learning_rate": 5e-3, "train__warmup_steps": 0,
            "train__schedule": "constant",
        }  # fmt: skip
        return run_config(asked if rows is None else rows, **common | overrides)

    return make
