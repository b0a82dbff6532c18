"""Folders that plain transformers and peft load: the adapter alone, or the whole model with it merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from luthier.errors import ModelError
from luthier.export.base import Exporter, Subject, infer_with
from luthier.system.files import write_text


class Adapter(Exporter):
    """The adapter as peft loads it; whoever uses it needs its base as well."""

    type: Literal["adapter"] = "adapter"

    def write(self, subject: Subject, folder: Path) -> None:
        """Copy what was trained; raises ModelError where that is a whole model."""
        place = subject.found.adapter
        if place is None:
            raise ModelError(f"{subject.path}: is a whole model, not an adapter; use --to merged")
        infer_with(subject, folder)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy2(place / name, folder)
        file = folder / "adapter_config.json"
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        base = Path(subject.found.location)
        told["base_model_name_or_path"] = str(base.resolve()) if base.exists() else subject.found.location
        write_text(file, json.dumps(told, indent=1, sort_keys=True) + "\n")


class Merged(Exporter):
    """A whole model for transformers, vLLM, SGLang and TGI: merged in float32, then kept in the type asked for."""

    type: Literal["merged"] = "merged"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """How weights are kept."""
    shard_size: str = "5GB"
    """Most bytes of one file."""

    @property
    def tolerance(self) -> str:
        """By precision."""
        return "exact" if self.precision == "float32" else self.precision

    def write(self, subject: Subject, folder: Path) -> None:
        """Save the merged model; raises ModelError for adapters that are no change of the weights."""
        import torch

        model = subject.model.to(getattr(torch, self.precision))
        model.save_pretrained(folder, max_shard_size=self.shard_size)
        infer_with(subject, folder, precision=self.precision)
