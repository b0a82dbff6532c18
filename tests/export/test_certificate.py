"""Drifts between training and serving, planted one by one in exports whose hashes are made to fit: each is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.errors import CertificateError, ModelError
from luthier.export import certificate


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    change(held)
    save_file(held, file, metadata={"format": "pt"})


def sign(folder: Path) -> None:
    """Make the hashes fit, as somebody would who thinks that the change is fine."""
    certificate.write(folder, certificate.read(folder))


def untie(held: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(1)
    held["lm_head.weight"] = torch.randn_like(held["model.embed_tokens.weight"]) / 8


def round_off(held: dict[str, torch.Tensor]) -> None:
    held.update({name: weight.bfloat16() for name, weight in held.items()})


def swap_tokens(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["a"], words["W"] = words["W"], words["a"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


def same_length(folder: Path, old: bytes, new: bytes) -> None:
    """Within a GGUF file, whose parts have their places."""
    assert len(old) == len(new)
    file = folder / "model.gguf"
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))


DRIFTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "template edited": (
        "merged",
        lambda f: edit(f / "chat_template.jinja", "assistant\n", "assistant \n"),
        "the template writes",
    ),
    "default system prompt dropped": (
        "merged",
        lambda f: edit(f / "chat_template.jinja", "!= 'system'", "== 'none'"),
        "prompt 1: token",
    ),
    "BOS doubled": (
        "merged",
        lambda f: edit(f / "chat_template.jinja", "{{ bos_token }}", "{{ bos_token + bos_token }}"),
        "token 1 is '<|endoftext|>' (0)",
    ),
    "adapter scaled twice": (
        "adapter",
        lambda f: rewrite(f / "adapter_config.json", lora_alpha=32),
        "log_probability is",
    ),
    "wrong stop token": (
        "merged",
        lambda f: rewrite(f / "generation_config.json", eos_token_id=[0]),
        "answers end with the tokens [0], in training with [2]",
    ),
    "tied head lost": (
        "merged",
        lambda f: (rewrite(f / "config.json", tie_word_embeddings=False), weights(f, untie)),
        "log_probability is",
    ),
    "wrong rope": (
        "merged",
        lambda f: rewrite(f / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        "log_probability is",
    ),
    "tokenizer changed": ("merged", swap_tokens, "token 35 is 'a' (57), in training 'W' (67)"),
    "dtype": (
        "merged",
        lambda f: (rewrite(f / "config.json", dtype="bfloat16"), weights(f, round_off)),
        "log_probability is",
    ),
    "a layer lost": (
        "merged",
        lambda f: weights(f, lambda w: w["model.layers.1.mlp.down_proj.weight"].zero_()),
        "log_probability is",
    ),
    "adapter forgotten": ("adapter", lambda f: rewrite(f / "adapter_config.json", target_modules=["q_proj"]), ""),
    "template in a GGUF": ("gguf", lambda f: same_length(f, b"You help.", b"You hulp."), "the template writes"),
    "stop token of a GGUF": (
        "gguf",
        lambda f: same_length(f, b"eos_token_id\x04\0\0\0\x02", b"eos_token_id\x04\0\0\0\x05"),
        "answers end with",
    ),
    "BOS of a GGUF": (
        "gguf",
        lambda f: same_length(f, b"add_bos_token\x07\0\0\0\0", b"add_bos_token\x07\0\0\0\x01"),
        "the template writes",
    ),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_is_seen_though_the_hashes_fit(drift: str, copy: Callable[..., Path]) -> None:
    to, plant, said = DRIFTS[drift]
    folder = copy(to, **({"precision": "F32"} if to == "gguf" else {}))
    plant(folder)
    sign(folder)
    with pytest.raises(CertificateError) as caught:
        certificate.verify(folder)
    assert "is not what was trained" in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_what_is_unchanged_passes(to: str, exported: Callable[..., Path]) -> None:
    measured = certificate.verify(exported(to))
    assert measured["log_probability"] < 1e-4 and measured["top1"] == 1 and measured["prompts"] == 3


def test_files(copy: Callable[..., Path]) -> None:
    folder = copy("merged")
    edit(folder / "infer.py", "import json", "import  json")
    (folder / "other.json").write_text("{}")
    (folder / "inference.json").rename(folder / "inference.txt")
    with pytest.raises(CertificateError, match=r"infer.py was changed\n  inference.json is gone\n  other.json is new"):
        certificate.verify(folder)


def test_no_certificate(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no certificate\.json that can be read; luthier export writes one"):
        certificate.verify(tiny)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rounded_weights_have_tolerances_of_their_own(precision: str, exported: Callable[..., Path]) -> None:
    measured = certificate.verify(exported("merged", precision=precision, shard_size="100KB"))
    assert 0 < measured["kl"] < 0.01
    assert len([*exported("merged", precision=precision, shard_size="100KB").glob("*.safetensors")]) > 1
