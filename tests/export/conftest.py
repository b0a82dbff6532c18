"""A tiny model with a default system prompt and a BOS token in its template, tuned by LoRA, in every format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapters.lora import Lora
from luthier.config import ModelConfig
from luthier.data.conversation import Conversation, Message
from luthier.export.base import Subject
from luthier.export.write import export
from luthier.models.load import ModelLoader
from luthier.plugins import load
from tests.conftest import CHATML, build_model, build_tokenizer

DEFAULT = "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"


def questions(count: int = 3) -> list[Conversation]:
    """Rows with answers, as held-out rows are."""
    return [
        Conversation(
            (Message(role="user", content=f"What is {i}?\n\n Ünd  so"), Message(role="assistant", content=f"{i}."))
        )
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights large enough that no two tokens are nearly as likely, and no answer is always the same token."""
    folder = tmp_path_factory.mktemp("base") / "base"
    tokenizer = build_tokenizer(template=DEFAULT + CHATML)
    tokenizer.bos_token = "<|endoftext|>"
    model = build_model(len(tokenizer), initializer_range=0.2, bos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter on it, with its tokenizer, as a run leaves it."""
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    loader, config = ModelLoader(), ModelConfig(path=str(base))
    adapter = Lora(rank=4)
    model = adapter.attach(loader.load(config))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.save(model, folder)
    loader.tokenizer(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The tuned model in a format, written once; tests that change it take a `copy`."""
    made: dict[tuple[str, str], Path] = {}

    def make(to: str, **settings: Any) -> Path:
        key = (to, str(settings))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("exports") / to
            export(Subject(str(tuned)), load("exporter", to)(**settings), made[key], questions())
        return made[key]

    return make


@pytest.fixture
def copy(exported: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of an export, to damage."""
    return lambda to, **settings: Path(shutil.copytree(exported(to, **settings), tmp_path / to))
