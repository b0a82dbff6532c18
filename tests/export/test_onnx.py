"""ONNX graphs of seven architectures, run by onnxruntime alone: any batch, any length, with and without a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.errors import CertificateError
from luthier.export import certificate
from luthier.export.base import Subject
from luthier.export.onnx import FILE, Onnx
from tests.conftest import build_tokenizer

SIZES = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.1,
}  # fmt: skip
WINDOWS = ["sliding_attention", "full_attention"]


def architecture(name: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    gpt2 = {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "eos_token_id": 2}
    gemma = {"head_dim": 16, "sliding_window": 4, "layer_types": WINDOWS, "query_pre_attn_scalar": 16}
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SIZES)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**SIZES, head_dim=32)),
        "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**SIZES, **gemma)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt2)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**SIZES, sliding_window=4)),
        "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**SIZES)),
    }
    return made[name]().eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3", "gpt2", "mistral", "phi3"])
def test_an_architecture(name: str, tmp_path: Path) -> None:
    """Logits of left-padded batches, read in two pieces: the first onto an empty cache, the second onto that."""
    import onnxruntime

    model = architecture(name)
    model.save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "out").mkdir()
    Onnx().write(Subject(str(tmp_path / "model")), tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / FILE))
    pasts = [one for one in session.get_inputs() if "past_key_values" in one.name]
    for batch, length in ((1, 7), (3, 12)):
        ids = torch.randint(3, 200, (batch, length))
        mask = torch.ones_like(ids)
        mask[batch // 2, : batch // 2] = 0
        places = (mask.cumsum(-1) - 1).clamp_min(0)
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits
        past = [np.zeros((batch, int(one.shape[1]), 0, int(one.shape[3])), np.float32) for one in pasts]
        found = []
        for start, end in ((0, 5), (5, length)):
            feeds = {
                "input_ids": ids[:, start:end].numpy(), "attention_mask": mask[:, :end].numpy(),
                "position_ids": places[:, start:end].numpy(),
            }  # fmt: skip
            logits, *past = session.run(None, feeds | {one.name: p for one, p in zip(pasts, past, strict=True)})
            found.append(logits)
        shown = mask.bool().numpy()
        assert np.abs(np.concatenate(found, 1) - expected.numpy())[shown].max() < 1e-4


@pytest.mark.slow
def test_certified_and_a_changed_template_is_seen(exported: Callable[..., Path]) -> None:
    measured = certificate.verify(exported("onnx"))
    assert measured["log_probability"] < 1e-4 and measured["top1"] == 1
    file = exported("onnx") / "chat_template.jinja"
    file.write_text(file.read_text() + " ")
    with pytest.raises(CertificateError, match=r"chat_template\.jinja was changed"):
        certificate.verify(exported("onnx"))


def test_the_certificate_measures_what_is_said() -> None:
    """Half of a token's probability moved to another one."""
    trained = [[(5, np.log(0.8)), (6, np.log(0.1))]]
    asked = [[(6, np.log(0.5)), (5, np.log(0.4)), (7, np.log(0.05))]]
    found = dict(certificate._distances([*zip(trained, asked, strict=True)]))
    assert found["log_probability"] == pytest.approx(np.log(5)) and found["top1"] == 0
    expected = 0.8 * np.log(2) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1 / 0.1)
    assert found["kl"] == pytest.approx(expected)
