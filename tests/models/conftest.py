"""Model folders that a test may damage, and an adapter on one of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapters.lora import Lora
from luthier.config import ModelConfig
from luthier.models.load import ModelLoader


def load(path: Path | str, **settings: Any) -> Any:
    return ModelLoader().load(ModelConfig(path=str(path), **settings))


def rewrite(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def with_lora(path: Path) -> Any:
    """A model with LoRA matrices that are not zero."""
    tuned = Lora(rank=2).attach(load(path))
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return tuned


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    """A LoRA adapter that changes what the model says."""
    folder = tmp_path / "adapter"
    Lora(rank=2).save(with_lora(model), folder)
    return folder
