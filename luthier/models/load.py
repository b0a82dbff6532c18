"""Loading models.

Weights come from safetensors only and no code of a model folder ever runs. Replaceable: `Factory(models=...)` takes
any `ModelLoaderLike`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luthier.config import ModelConfig
from luthier.data.render import Renderer
from luthier.distributed.strategy import pick_device
from luthier.errors import LuthierError, MissingExtra, ModelError
from luthier.models.find import ADAPTER_WEIGHTS, Found, find, record_of, require_language
from luthier.models.output import has_virtual_tokens
from luthier.registry.index import place_of
from luthier.system.hardware import choose_precision, is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelLoaderLike(Protocol):
    """What `Factory(models=...)` takes."""

    def renderer(self, config: ModelConfig) -> Renderer:
        """What turns conversations into ids as this model is served."""

    def load(
        self, config: ModelConfig, *, dtype: str = "float32", scores: bool = False, bits: int | None = None
    ) -> PreTrainedModel:
        """The model in evaluation mode, its weights in `dtype` unless the config says otherwise, or quantised.

        With `scores`, it has a head of one number instead of its language head. `auto` is the type that they are saved
        in: then they are mapped from their files, which all processes of a machine share, until they are used.
        """


class ModelLoader:
    """The built-in model loader."""

    def tokenizer(self, config: ModelConfig) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template that the config names."""
        from transformers import AutoTokenizer

        found = find(config.path)
        with Readable(config.path):
            adapter_has_one = found.adapter is not None and (found.adapter / "tokenizer_config.json").is_file()
            source = (
                {"pretrained_model_name_or_path": str(found.adapter)} if adapter_has_one else _source(found, config)
            )
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
        if config.chat_template is not None:
            template = Path(config.chat_template)
            if not template.is_file():
                raise ModelError(f"model.chat_template: {template}: no such file (looked at {template.absolute()})")
            with Readable(f"model.chat_template: {template}"):
                tokenizer.chat_template = template.read_text(encoding="utf-8")
        return tokenizer

    def renderer(self, config: ModelConfig) -> Renderer:
        """What turns conversations into ids as this model is served; a tuned model keeps the options of its run.

        Raises:
            ModelError: the model cannot be found, or its tokenizer cannot be read.
        """
        options = config.template_options or record_of(place_of(config.path)).get("template_options")
        return Renderer(self.tokenizer(config), stop_ids=self.stop_ids(config), options=options)

    def stop_ids(self, config: ModelConfig) -> list[int]:
        """The ids that end generation, as the model's generation config names them."""
        from transformers import GenerationConfig

        found = find(config.path)
        if found.kind == "gguf":
            return []
        try:
            eos = GenerationConfig.from_pretrained(found.location, revision=_revision(found, config)).eos_token_id
        except OSError:
            return []
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def _padding(self, config: ModelConfig) -> int:
        """The padding token: a scoring model is read at the last token that is another one."""
        tokenizer = self.tokenizer(config)
        found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return int(found)

    def load_for_use(self, config: ModelConfig) -> PreTrainedModel:
        """The model on this machine's device, as it was trained; raises as `load`.

        That is in the precision that training chooses there, and on a quantised base where an adapter learnt on one.
        """
        device = pick_device()
        dtype = "bfloat16" if choose_precision("auto", device.type) == "bf16" else "float32"
        bits = record_of(place_of(config.path), "adapter").get("bits")
        loaded = self.load(config, dtype=dtype, bits=bits)
        return loaded if bits else loaded.to(device)

    def load(
        self, config: ModelConfig, *, dtype: str = "float32", scores: bool = False, bits: int | None = None
    ) -> PreTrainedModel:
        """The model in evaluation mode, an adapter of a previous run on it; `dtype` fills in for `auto`.

        With `scores`, a language model gets a new head of one number, drawn from torch's generator. `bits` (4 or 8)
        quantises the base by bitsandbytes; an adapter stays as it is.

        Raises:
            ModelError: it cannot be found or loaded, or it is of another kind.
            MissingExtra: it is to be quantised, and bitsandbytes is not installed.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        getLogger("bitsandbytes").setLevel("ERROR")  # it warns of every cast of every layer
        found = find(config.path)
        said = dtype if config.dtype == "auto" else config.dtype
        wanted = "auto" if said == "auto" else getattr(torch, said)
        if not scores:
            require_language(config.path, found)
        family = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
        extra = _quantised(found, config.path, bits, wanted) | ({"num_labels": 1} if scores else {})
        with Readable(config.path):
            model: Any
            model, outcome = family.from_pretrained(
                **_source(found, config),
                **extra,
                dtype=wanted,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that they are named below
                output_loading_info=True,
            )
            new = {name for name in outcome["missing_keys"] if scores and name.startswith(("score.", "classifier."))}
            require_every_weight(config.path, outcome, but=new)
            _keep_differentiable(model)
            if scores:
                model.config.pad_token_id = self._padding(config)
            # what an adapter will name as its base, from whatever folder it is loaded
            model.name_or_path = found.location if found.kind == "hub" else str(Path(found.location).resolve())
            model.config._commit_hash = _commit(found, config)  # which the adapters write down
            _use_segment_attention(model)
            if found.adapter is not None:
                model = add_adapter(model, found.adapter)
        model.eval()
        return model


def _quantised(found: Found, path: str, bits: int | None, dtype: Any) -> dict[str, Any]:
    """How transformers loads the base: as it is, or in 4 bits (nf4, its scales quantised again) or 8."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig, GgufConfig

    if bits and found.kind == "gguf":
        raise ModelError(f"{path}: a .gguf file cannot be quantised anew; convert it to a model folder first")
    if found.kind == "gguf":
        return {"quantization_config": GgufConfig(dequantize=True)}
    if bits is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise MissingExtra(f"a base model in {bits} bits", "bitsandbytes", "quantize")
    fine = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    settings = BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else BitsAndBytesConfig(load_in_4bit=True, **fine)
    return {"quantization_config": settings}


def _keep_differentiable(model: Any) -> None:
    """Keep weights of 4 bits as they are.

    On CPUs with bf16, bitsandbytes packs them anew in the first forward pass without gradients, for a kernel that has
    none: every later training step would silently lose what passes through it.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.nn.modules import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False


def _source(found: Found, config: ModelConfig) -> dict[str, Any]:
    if found.kind == "gguf":
        file = Path(found.location)
        return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    return {"pretrained_model_name_or_path": found.location, "revision": _revision(found, config)}


def _revision(found: Found, config: ModelConfig) -> str:
    """Of a hub model: the one asked for, or the one a tuned adapter stands on."""
    return config.revision or found.revision or "main"


def _commit(found: Found, config: ModelConfig) -> str | None:
    """The commit of a hub model that was just loaded: a branch may move on, a commit stays."""
    if found.kind != "hub":
        return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(found.location, "config.json", revision=_revision(found, config))
    return Path(file).parent.name if isinstance(file, str) else None


def require_every_weight(path: str, outcome: Any, *, but: Collection[str] = ()) -> None:
    """The library fills weights that a checkpoint lacks with random numbers; such a model must not be used."""
    lacking = sorted(set(outcome["missing_keys"]) - set(but))
    unfit = sorted(f"{name} {list(there)}, not {list(here)}" for name, there, here in outcome["mismatched_keys"])
    for names, fault in ((lacking, "are missing"), (unfit, "have another shape than config.json says")):
        if names:
            raise ModelError(f"{path}: {len(names)} weights {fault}: {', '.join(names[:3])}")


def add_adapter(model: Any, folder: Path, name: str = "default") -> Any:
    """The model with a tuned adapter on it, beside others or as its first, every weight of which finds its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    if '"BOTTLENECK"' in (folder / "adapter_config.json").read_text(encoding="utf-8"):
        import luthier.models.bottleneck  # noqa: F401 - a method of peft from then on
    tuned, inner = (model, model.get_base_model()) if isinstance(model, PeftModel) else (None, model)
    names = (own.replace(".base_layer", "") for own, _ in inner.named_parameters(remove_duplicate=False))
    own = {f"base_model.model.{own}" for own in names}
    with warnings.catch_warnings(action="ignore"):  # of missing weights: named below
        if tuned is None:
            tuned = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        else:
            tuned.load_adapter(str(folder), adapter_name=name)
    expected = set(get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False))
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        strange = sorted((expected - set(file.keys())) | (set(file.keys()) - expected - own))
    if strange:
        raise ModelError(f"{folder}: the adapter does not fit its base model: {len(strange)} weights, {strange[0]}")
    return tuned


def _use_segment_attention(model: Any) -> None:
    """Let models whose attention torch's kernel computes use ours; the others keep their own and are not packed.

    Others are those that cap scores, attend in chunks, or have layers that carry a state along the row.
    """
    from luthier.kernels import attention

    attention.register()
    config = model.config.get_text_config()
    plain = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    if model._supports_sdpa and plain and getattr(config, "attn_logit_softcapping", None) is None:
        model.set_attn_implementation(attention.NAME)


def packs(model: Any) -> bool:
    """Whether sequences may share a row: the model attends segment by segment, and nothing stands in front of a row."""
    from luthier.kernels import attention, tiles

    if has_virtual_tokens(model):
        return False
    return model.config.get_text_config()._attn_implementation in (attention.NAME, tiles.NAME)


class Readable:
    """Turns what the libraries raise for unreadable models into one sentence."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, LuthierError) and not is_out_of_memory(error):
            first, *rest = str(error).strip().splitlines() or [type(error).__name__]
            said = f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first
            raise ModelError(f"{self.path}: cannot be loaded: {said}") from error


def convert_gguf(file: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with its tokenizer and chat template."""
    import torch

    loader = ModelLoader()
    config = ModelConfig(path=str(file))
    model = loader.load(config)
    model.to(torch.float32).save_pretrained(folder)
    loader.tokenizer(config).save_pretrained(folder)
