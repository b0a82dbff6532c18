"""`onnx`: one graph for onnxruntime that reads prompts and goes on from the keys and values of what it has read."""

from __future__ import annotations

import logging
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.errors import MissingExtra, ModelError
from luthier.export.base import Exporter, Subject, infer_with

FILE = "model.onnx"


class Onnx(Exporter):
    """A graph with a cache of keys and values; any batch, any length."""

    type: Literal["onnx"] = "onnx"
    precision: Literal["float32", "int8"] = "float32"
    """int8 keeps weights of matrices in 8 bits, by onnxruntime's dynamic quantisation."""

    runs_on: ClassVar[str] = "onnx"

    @property
    def tolerance(self) -> str:
        """By precision."""
        return "exact" if self.precision == "float32" else self.precision

    def write(self, subject: Subject, folder: Path) -> None:
        """Trace the merged model; raises ModelError where torch cannot, MissingExtra without onnx and onnxruntime."""
        try:
            from onnxruntime.quantization import quantize_dynamic
            from transformers.exporters import OnnxExporter
            from transformers.exporters.configs import OnnxConfig

            exporter = OnnxExporter()
        except ImportError:
            raise MissingExtra("--to onnx", "onnx, onnxruntime or onnxscript", "onnx") from None
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):
                subject.model.set_attn_implementation("sdpa")
                inputs, shapes = traced_inputs(subject.model)
                config = OnnxConfig(dynamic=True, dynamic_shapes=shapes)
                exporter.export(subject.model, inputs, config=config).save_pretrained(folder)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{subject.path}: cannot be traced as ONNX: {first}; try --to gguf or merged") from error
        if self.precision == "int8":
            whole = [folder / FILE, folder / f"{FILE}.data"]
            quantize_dynamic(whole[0], folder / "int8.onnx", use_external_data_format=True)
            for file in whole:
                file.unlink(missing_ok=True)
            (folder / "int8.onnx").rename(whole[0])
        infer_with(subject, folder, precision=self.precision)


def traced_inputs(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two rows of three ids each, behind five that are read already, and which of their axes may be of any length.

    The cache is a plain one in every layer: those of sliding windows forget, and how much a graph cannot say. The
    window is then a matter of the mask, and what is attended to is the same.
    """
    import torch
    from transformers import DynamicCache

    ids = torch.arange(16).reshape(2, 8) % model.config.get_text_config().vocab_size
    with torch.no_grad():
        past = model(input_ids=ids[:, :5], past_key_values=DynamicCache(), use_cache=True).past_key_values
    auto = torch.export.Dim.AUTO
    inputs = {
        "input_ids": ids[:, 5:],
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(5, 8).expand(2, -1).clone(),
    }
    shapes: dict[str, Any] = {name: {0: auto, 1: auto} for name in inputs}
    shapes["past_key_values"] = [{0: auto, 2: auto}] * (2 * len(past.layers))
    return inputs | {"past_key_values": past, "use_cache": True}, shapes
