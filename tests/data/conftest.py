"""Files through the data processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import DataConfig
from luthier.data.processor import DataProcessor, Prepared
from luthier.data.render import Renderer
from luthier.objectives.sft import Sft


@pytest.fixture
def prepare(tokenizer: Any) -> Callable[..., Prepared]:
    """Prepares with the tiny tokenizer; keyword arguments are those of the config."""

    def run(*train: Any, objective: Sft | None = None, **options: Any) -> Prepared:
        sources = [str(one) if isinstance(one, Path) else one for one in train]
        config = DataConfig(train=sources, **({"held_out": 0.0} | options))
        return DataProcessor().prepare(config, Renderer(tokenizer), objective or Sft())

    return run
