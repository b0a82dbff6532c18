"""An exporter writes a tuned model in a format that others run.

What it does: fills an empty folder with the model, its tokenizer, chat template and stop tokens.
What it must not know: data files, training, how answers are proven (`certificate.py`).
How to add one: a class with these members in a file here, and its name in `plugins.py` or an entry point.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from luthier.config import ModelConfig
from luthier.errors import ModelError
from luthier.models.find import find
from luthier.plugins import Part
from luthier.system.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.data.render import Renderer


class Subject:
    """What is exported: a run, an adapter or a whole model. It is loaded when it is needed, in float32."""

    def __init__(self, path: str) -> None:
        self.path, self.found = path, find(path)

    @cached_property
    def renderer(self) -> Renderer:
        """What turns conversations into ids as it was trained."""
        from luthier.models.load import ModelLoader

        return ModelLoader().renderer(ModelConfig(path=self.path))

    @cached_property
    def tuned(self) -> PreTrainedModel:
        """The model with its adapter on it."""
        from luthier.models.load import ModelLoader

        return ModelLoader().load(ModelConfig(path=self.path, dtype="float32"))

    @cached_property
    def model(self) -> PreTrainedModel:
        """The same, the adapter merged; from then on `tuned` is used up."""
        from luthier.adapters.merge import merge

        return merge(self.tuned)

    @property
    def stops(self) -> list[int]:
        """The ids that end an answer, the tokenizer's own first."""
        eos = self.renderer.tokenizer.eos_token_id
        return sorted(self.renderer.stop_ids, key=lambda i: (i != eos, i))

    @property
    def template(self) -> str:
        """The chat template; raises ModelError where there is none."""
        template = self.renderer.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise ModelError(f"{self.path}: has no chat template, so that nothing could talk to it")
        return str(template)


class Exporter(Part, ABC):
    """Base of the formats."""

    runs_on: ClassVar[str] = "hf"
    """Which of the codes in `inference/code` runs what is written."""

    @property
    def tolerance(self) -> str:
        """How far answers may be from those in training, by its name in `tolerances.yaml`."""
        return "exact"

    @abstractmethod
    def write(self, subject: Subject, folder: Path) -> None:
        """Fill an empty folder; raises UserError where the format does not take the model."""


def infer_with(subject: Subject, folder: Path, **more: object) -> None:
    """What the code that runs an export reads beside the weights."""
    from transformers import GenerationConfig

    tokenizer = subject.renderer.tokenizer
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(eos_token_id=subject.stops, **ids).save_pretrained(folder)
    told = {"template_options": subject.renderer.options, "special_tokens": tokenizer.special_tokens_map}
    write_text(folder / "inference.json", json.dumps(told | {"stop_ids": subject.stops} | more, indent=1) + "\n")
