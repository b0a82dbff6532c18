"""GGUF files of four families and every precision, run by llama.cpp itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from luthier.errors import ModelError
from luthier.export import certificate
from luthier.export.base import Subject
from luthier.export.gguf import Gguf, _kind, _packed, _pre_tokenizer, tables
from luthier.export.write import export
from tests.conftest import build_model, build_tokenizer
from tests.export.conftest import questions

SIZES = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.1, "eos_token_id": 2, "pad_token_id": 0,
    "bos_token_id": None,
}  # fmt: skip
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16}


def family(name: str, vocabulary: int) -> Any:
    import transformers as t

    sizes = SIZES | {"vocab_size": vocabulary}
    torch.manual_seed(0)
    return {
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**sizes)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**sizes, head_dim=32)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**sizes, sliding_window=None)),
        "gemma3": lambda: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**sizes, **GEMMA, sliding_window=16, layer_types=["sliding_attention"] * 2)
        ),
    }[name]()


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral", "gemma3"])
def test_a_family_answers_in_llama_cpp_as_in_transformers(name: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = family(name, len(tokenizer))
    for key, weight in model.named_parameters():
        if key.endswith((".bias", "norm.weight")):  # random ones are all 0 or 1
            torch.nn.init.normal_(weight, mean=float(name != "gemma3" and "norm" in key), std=0.1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    measured = export(Subject(str(tmp_path / "model")), Gguf(precision="F32"), tmp_path / "out", questions())
    assert measured["log_probability"] < 1e-3 and measured["top1"] == 1


def test_infer_py_answers_as_it_stands(exported: Callable[..., Path]) -> None:
    folder = exported("gguf", precision="F32")
    record = json.loads((folder / "certificate.json").read_text())["prompts"][1]
    said = subprocess.run(
        [sys.executable, "-I", str(folder / "infer.py"), "--jsonl", "--max-new-tokens", str(len(record["answer_ids"]))],
        input=json.dumps({"messages": record["messages"]}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout.splitlines()[-1])["ids"] == record["answer_ids"]


@pytest.mark.parametrize("precision", ["F16", "Q8_0"])
def test_a_precision_keeps_its_tolerance(precision: str, exported: Callable[..., Path]) -> None:
    measured = certificate.verify(exported("gguf", precision=precision))
    assert 0 < measured["kl"] < certificate.tolerances()[precision]["kl"]


def test_refused(tiny: Path, tmp_path: Path) -> None:
    build_model(
        len(build_tokenizer()), rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    ).save_pretrained(tmp_path / "m")
    build_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="rope_type dynamic is not written; allowed: default, linear, llama3"):
        export(Subject(str(tmp_path / "m")), Gguf(), tmp_path / "out", questions(1))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused() -> None:
    with pytest.raises(ModelError, match="how its tokenizer splits text"):
        _pre_tokenizer("m", {"pre_tokenizer": {"type": "Whitespace"}})


@pytest.mark.parametrize("precision", ["Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"])
def test_the_codes_of_llama_cpp_pack_what_its_readers_unpack(precision: str) -> None:
    """The finer, the nearer; a row that is no multiple of 256 takes another type."""
    value = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    kind = _kind("blk.0.ffn_up.weight", value, precision)
    unpacked = dequantize(_packed(value, kind), GGMLQuantizationType[kind])
    bits = int(precision[1])
    assert kind == precision and np.abs(unpacked - value).mean() < 2.0 ** (1 - bits)
    assert not _kind("blk.0.ffn_up.weight", value[:, :288], precision).endswith("_K")
    assert _kind("blk.0.attn_norm.weight", value[0], precision) == "F32"


def test_every_precision_has_its_tolerance() -> None:
    assert tables()["precisions"].keys() - certificate.tolerances().keys() == {"F32"}
