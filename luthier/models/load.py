"""Finding and loading models: a folder, a hub id, a GGUF file, a name of the catalogue, the output of a run.

Weights come from safetensors only and no code of a model folder ever runs. Replaceable: `Factory(models=...)` takes
anything with `tokenizer` and `load`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.config import ModelConfig
from luthier.errors import ModelError
from luthier.models.catalogue import entries
from luthier.plugins import suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is. `adapter` is the folder of a tuned adapter that stands on the model."""

    kind: Literal["folder", "hub", "gguf"]
    location: str
    adapter: Path | None = None


def find(path: str) -> Found:
    """Resolve what the config calls a model, without loading it.

    Raises:
        ModelError: nothing is there, or what is there must not be loaded.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _folder(place)
    if place.suffix == ".gguf":
        if not place.is_file():
            raise ModelError(f"{path}: no such file (looked at {place.absolute()})")
        return Found("gguf", str(place))
    if path in entries():
        if not entries()[path].fetched:
            raise ModelError(f"{path} is not on this machine yet; fetch it once with: luthier models fetch {path}")
        return Found("folder", str(entries()[path].folder))
    if _HUB_ID.fullmatch(path) and not place.parent.is_dir():
        return Found("hub", path)
    raise ModelError(
        f"no model {path!r}: not a folder, a .gguf file or a hub id (owner/name); {suggestion(path, entries())}"
    )


def _folder(place: Path) -> Found:
    if (place / "adapter_config.json").is_file():
        base = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        below = find(base)
        return Found(below.kind, below.location, adapter=place)
    if not (place / "config.json").is_file():
        checkpoints = (
            " (it holds checkpoints of an unfinished run: give one of them)" if [*place.glob("checkpoint-*")] else ""
        )
        raise ModelError(
            f"{place}: no config.json and no adapter_config.json, so this is not a model folder{checkpoints}"
        )
    if not list(place.glob("*.safetensors")):
        pickled = [*place.glob("*.bin"), *place.glob("*.pt"), *place.glob("*.pth")]
        why = (
            f"only {pickled[0].name}, which could run code when opened; convert it to safetensors"
            if pickled
            else "none"
        )
        raise ModelError(f"{place}: no weights to load: expected *.safetensors, found {why}")
    return Found("folder", str(place))


class ModelLoader:
    """The built-in model loader."""

    def tokenizer(self, config: ModelConfig) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template that the config names."""
        from transformers import AutoTokenizer

        found = find(config.path)
        with _Readable(config.path):
            adapter_has_one = found.adapter is not None and (found.adapter / "tokenizer_config.json").is_file()
            source = (
                {"pretrained_model_name_or_path": str(found.adapter)} if adapter_has_one else _source(found, config)
            )
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
        if config.chat_template is not None:
            template = Path(config.chat_template)
            if not template.is_file():
                raise ModelError(f"model.chat_template: {template}: no such file (looked at {template.absolute()})")
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        return tokenizer

    def stop_ids(self, config: ModelConfig) -> list[int]:
        """The ids that end generation, as the model's generation config names them."""
        from transformers import GenerationConfig

        found = find(config.path)
        if found.kind == "gguf":
            return []
        try:
            eos = GenerationConfig.from_pretrained(found.location, revision=config.revision).eos_token_id
        except OSError:
            return []
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def load(self, config: ModelConfig, *, dtype: str = "float32") -> PreTrainedModel:
        """The model in evaluation mode, an adapter of a previous run on it; `dtype` fills in for `auto`.

        Raises:
            ModelError: it cannot be found or loaded, or it is not a causal language model.
        """
        import torch
        from transformers import AutoModelForCausalLM, GgufConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        found = find(config.path)
        wanted = getattr(torch, dtype if config.dtype == "auto" else config.dtype)
        gguf = {"quantization_config": GgufConfig(dequantize=True)} if found.kind == "gguf" else {}
        with _Readable(config.path):
            model: Any = AutoModelForCausalLM.from_pretrained(
                **_source(found, config), **gguf, dtype=wanted, use_safetensors=True, trust_remote_code=False
            )
            _use_segment_attention(model)
            if found.adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, str(found.adapter))
        model.eval()
        return model


def _source(found: Found, config: ModelConfig) -> dict[str, Any]:
    if found.kind == "gguf":
        file = Path(found.location)
        return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    return {"pretrained_model_name_or_path": found.location, "revision": config.revision or "main"}


def _use_segment_attention(model: Any) -> None:
    """Let models whose attention torch's kernel computes use ours; the others keep their own and are not packed."""
    from luthier.kernels import attention

    attention.register()
    config = model.config.get_text_config()
    if model._supports_sdpa and getattr(config, "attn_logit_softcapping", None) is None:
        model.set_attn_implementation(attention.NAME)


def packs(model: Any) -> bool:
    """Whether sequences may share a row: the model attends segment by segment."""
    from luthier.kernels import attention

    return bool(model.config.get_text_config()._attn_implementation == attention.NAME)


class _Readable:
    """Turns what the libraries raise for unreadable models into one sentence."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if (
            isinstance(error, OSError | ValueError | ImportError | KeyError)
            or type(error).__name__ == "SafetensorError"
        ):
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{self.path}: cannot be loaded: {first}") from error


def convert_gguf(file: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with its tokenizer and chat template."""
    import torch

    loader = ModelLoader()
    config = ModelConfig(path=str(file))
    model = loader.load(config)
    model.to(torch.float32).save_pretrained(folder)
    loader.tokenizer(config).save_pretrained(folder)
