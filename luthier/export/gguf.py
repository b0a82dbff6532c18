"""`gguf`: one file for llama.cpp, Ollama and LM Studio, with tokenizer and chat template, by a converter of ours."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from luthier.errors import ModelError
from luthier.export.base import Exporter, Subject, infer_with
from luthier.supplies import library, shipped

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from numpy.typing import NDArray

FILE = "model.gguf"


class Gguf(Exporter):
    """llama.cpp's format, of the Llama, Mistral, Qwen2, Qwen3 and Gemma families."""

    type: Literal["gguf"] = "gguf"
    precision: Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"] = "F16"
    """How weights are kept; norms stay in float32, embeddings and head have finer types than the smallest."""

    runs_on: ClassVar[str] = "gguf"

    @property
    def tolerance(self) -> str:
        """By precision."""
        return "exact" if self.precision == "F32" else self.precision

    def write(self, subject: Subject, folder: Path) -> None:
        """Convert into `model.gguf`; raises ModelError for a family or a tokenizer that llama.cpp would get wrong."""
        convert(subject, folder / FILE, self.precision)
        infer_with(subject, folder, precision=self.precision)


def tables() -> dict[str, Any]:
    """What is known of families, tokenizers and precisions."""
    return dict(shipped("luthier.export", "families.yaml"))


def convert(subject: Subject, file: Path, precision: str) -> None:
    """Write a merged model as a GGUF file, one tensor in memory at a time beside the model.

    Raises:
        ModelError: a family, a rotary scaling or a tokenizer that has no equal in llama.cpp.
        MissingExtra: a K-quant, and xllamacpp is not installed.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map
    from gguf.constants import MODEL_ARCH_NAMES

    config = subject.model.config.get_text_config()
    name = subject.model.__class__.__name__
    family = tables()["architectures"].get(name)
    if family is None:
        known = ", ".join(sorted(tables()["architectures"]))
        raise ModelError(f"{subject.path}: {name} cannot be written as GGUF; allowed: {known}; --to onnx takes others")
    writer = GGUFWriter(file, family["arch"])
    _hyperparameters(writer, subject.path, config, family)
    _tokenizer(writer, subject, config.vocab_size)
    writer.add_file_type(LlamaFileType[tables()["precisions"][precision].get("file", f"MOSTLY_{precision}")])
    arch = next(arch for arch, called in MODEL_ARCH_NAMES.items() if called == family["arch"])
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for key, tensor in subject.model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        place = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ModelError(f"{subject.path}: llama.cpp has no place for the weight {key} in a {family['arch']}")
        value = _as_llama_cpp(key, tensor.float().cpu().numpy(), config, family)
        kind = _kind(place, value, precision)
        writer.add_tensor(place, _packed(value, kind), raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _hyperparameters(writer: GGUFWriter, path: str, config: Any, family: dict[str, Any]) -> None:
    kinds = list(getattr(config, "layer_types", None) or ())
    window, context, every = getattr(config, "sliding_window", None), config.max_position_embeddings, 0
    if "sliding" in family:
        every = family["sliding"]
        expected = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(len(kinds))]
        if kinds != expected:
            raise ModelError(f"{path}: llama.cpp has full attention in each {every}-th layer, this model in others")
        writer.add_sliding_window(int(config.sliding_window))
    elif window and (not kinds or "sliding_attention" in kinds):
        context = min(context, window)  # within a window, all attention is full
    writer.add_context_length(context)
    for key, attribute in tables()["metadata"].items():
        value = getattr(config, attribute, None)
        if value is not None:
            getattr(writer, f"add_{key}")(value)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(head)
    if getattr(config, "query_pre_attn_scalar", head) != head:
        raise ModelError(f"{path}: query_pre_attn_scalar {config.query_pre_attn_scalar} is not the size of a head")
    _rotary(writer, path, config, family)


def _rotary(writer: GGUFWriter, path: str, config: Any, family: dict[str, Any]) -> None:
    """Frequencies; those of Llama 3 are a tensor of factors by which the plain ones are divided."""
    from gguf import RopeScalingType

    settings = config.rope_parameters
    rope = settings.get("full_attention", settings)
    if "sliding_attention" in settings:
        writer.add_rope_freq_base_swa(settings["sliding_attention"]["rope_theta"])
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "llama3" and family["arch"] == "llama":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
        plain = rope["rope_theta"] ** -(np.arange(len(scaled)) / len(scaled))
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    elif kind != "default":
        raise ModelError(f"{path}: rope_type {kind} is not written; allowed: default, linear, llama3 (of Llamas)")


def _as_llama_cpp(key: str, value: NDArray[np.float32], config: Any, family: dict[str, Any]) -> NDArray[np.float32]:
    """A weight in the order and with the meaning that llama.cpp has for it."""
    if family.get("plus_one") and key.endswith("norm.weight"):
        return value + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads and family.get("interleaved"):
        return value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
    return value


def _kind(place: str, value: NDArray[np.float32], precision: str) -> str:
    kinds = tables()["precisions"][precision]
    if value.ndim == 1:
        return "F32"
    edge = kinds.get("edge", kinds["matrix"]) if place in ("token_embd.weight", "output.weight") else kinds["matrix"]
    narrow = str(edge).endswith("_K") and value.shape[-1] % 256
    kind = kinds["narrow"] if narrow else edge
    return "F16" if kind[0] == "Q" and value.shape[-1] % 32 else str(kind)


def _packed(value: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """Numbers in one of llama.cpp's types; K-quants by its own code, which its wheel carries."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape, quantize

    wanted = GGMLQuantizationType[kind]
    if not kind.endswith("_K"):
        return quantize(value, wanted)
    own = library("xllamacpp.xllamacpp", f"precision {kind}", "gguf", called="xllamacpp")
    value, rows = np.ascontiguousarray(value), int(np.prod(value.shape[:-1]))
    packed = np.empty(quant_shape_to_byte_shape(value.shape, wanted), dtype=np.uint8)
    sizes = (ctypes.c_int64(size) for size in (0, rows, value.shape[-1]))
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (value, packed))
    ctypes.CDLL(own.__file__).ggml_quantize_chunk(ctypes.c_int(wanted.value), *pointers, *sizes, None)
    return packed


def _tokenizer(writer: GGUFWriter, subject: Subject, size: int) -> None:
    """Tokens, merges, how text is split, special tokens and the chat template."""
    from gguf import TokenType

    tokenizer = subject.renderer.tokenizer
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in told["model"].get("merges") or ()]
    pieces = bool(told["model"].get("byte_fallback"))
    words = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {int(index): token for index, token in tokenizer.added_tokens_decoder.items()}
    kinds = [TokenType.NORMAL if i in words else TokenType.UNUSED for i in range(size)]
    for i, token in added.items():
        kinds[i] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    if pieces:
        ranks = {"".join(pair): -float(rank) for rank, pair in reversed(list(enumerate(merges)))}
        writer.add_token_scores([ranks.get(words.get(i, ""), -1e6) for i in range(size)])
        bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
        kinds = [TokenType.BYTE if words.get(i) in bytes_ else kind for i, kind in enumerate(kinds)]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix('"Prepend"' in json.dumps(told) or '"prepend_scheme": "first"' in json.dumps(told))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(subject.path, told))
        writer.add_token_merges([" ".join(part.replace(" ", chr(288)) for part in pair) for pair in merges])
    writer.add_token_list([words.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(kinds)
    stops = [i for i in subject.stops if i != tokenizer.eos_token_id]
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    for name, index in (ids | ({"eot": stops[0]} if stops else {})).items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    # The template writes every control token, as in training; one that llama.cpp adds would stand for it or double it.
    writer.add_add_bos_token(False)  # noqa: FBT003
    writer.add_add_eos_token(False)  # noqa: FBT003
    writer.add_chat_template(subject.template)


def _pre_tokenizer(path: str, told: dict[str, Any]) -> str:
    """llama.cpp's name of how text is split before it is merged; raises ModelError where it has none."""
    top = told.get("pre_tokenizer") or {}
    steps = []
    for step in top.get("pretokenizers", [top]):
        if step.get("type") == "Digits" and step.get("individual_digits"):
            steps.append("digits")
        elif step.get("type") == "Split":
            steps.append(step["pattern"].get("Regex", step["pattern"].get("String")))
        elif step.get("type") == "ByteLevel":
            steps += ["gpt2"] if step.get("use_regex", True) else []
        else:
            steps.append(str(step.get("type")))
    name = next((name for name, known in tables()["pre_tokenizers"].items() if known == steps), None)
    if name is None:
        raise ModelError(f"{path}: how its tokenizer splits text ({steps}) has no name in llama.cpp that is known here")
    return str(name)
