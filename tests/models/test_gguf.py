"""A .gguf file: what loads from it is what was written, and what was tuned on it finds it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.adapters.lora import Lora
from luthier.config import ModelConfig
from luthier.models.find import find
from luthier.models.load import ModelLoader, convert_gguf
from tests.conftest import CHATML, build_model
from tests.models.conftest import load, with_lora

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}
"""Of the same tensors in transformers and in llama.cpp."""
HEADS = {"attn_q": 4, "attn_k": 2}
IDS = torch.arange(3, 40)[None]


def tensors(model: Any) -> dict[str, np.ndarray]:
    """The weights as llama.cpp has them: under its names, the two halves of each rotary head interleaved."""
    result = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        heads = next((count for part, count in HEADS.items() if part in name), None)
        value = tensor.numpy()
        if heads is not None:
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        result[name] = np.ascontiguousarray(value)
    return result


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return build_model(len(tokenizer), tie_word_embeddings=False).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, model: Any) -> Path:
    from gguf import GGUFWriter

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer, config = GGUFWriter(path, "llama"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))])
    writer.add_token_types([3 if i in tokenizer.all_special_ids else 1 for i in range(len(tokenizer))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHATML)
    for name, value in tensors(model).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_weights_and_the_template(file: Path, model: Any) -> None:
    assert find(str(file)).kind == "gguf"
    torch.testing.assert_close(load(file)(IDS).logits, model(IDS).logits)
    assert ModelLoader().tokenizer(ModelConfig(path=str(file))).chat_template == CHATML
    assert ModelLoader().stop_ids(ModelConfig(path=str(file))) == []


def test_converted(file: Path, model: Any, tmp_path: Path) -> None:
    convert_gguf(file, tmp_path)
    torch.testing.assert_close(load(tmp_path)(IDS).logits, model(IDS).logits)
    assert ModelLoader().tokenizer(ModelConfig(path=str(tmp_path))).chat_template == CHATML


def test_an_adapter_finds_its_file_again(file: Path, tmp_path: Path) -> None:
    tuned = with_lora(file)
    Lora(rank=2).save(tuned, tmp_path)
    found = find(str(tmp_path))
    assert (found.kind, found.location, found.adapter) == ("gguf", str(file), tmp_path)
    assert torch.equal(load(tmp_path)(IDS).logits, tuned(IDS).logits)
