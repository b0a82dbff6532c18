"""Quickened models are the models that they were: same losses and gradients, same files, plain wherever it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.errors import UserError
from luthier.kernels import native
from luthier.models.faster import plain, quicken
from tests.conftest import build_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(seed: int = 0, **settings: Any) -> Any:
    """A tiny model with a LoRA that has learnt something."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "target_modules": TARGETS, "init_lora_weights": False} | settings
    return get_peft_model(build_model(100), LoraConfig(**settings))


def slopes(model: Any, *, seed: int = 1) -> dict[str, Tensor]:
    """The loss of a batch, and the gradients of what is trained."""
    ids = torch.randint(3, 100, (2, 11), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize(
    "settings", [{}, {"lora_dropout": 0.3}, {"use_rslora": True, "target_modules": ["q_proj", "up_proj"]}]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_those_of_peft(settings: dict[str, Any], checkpointing: bool) -> None:
    plain, quick = adapted(**settings).train(), adapted(**settings).train()
    assert "lora" in quicken(quick, "auto")
    if checkpointing:
        quick.enable_input_require_grads()
        quick.gradient_checkpointing_enable({"use_reentrant": False})
    expected, found = slopes(plain), slopes(quick)
    torch.testing.assert_close(found, expected, rtol=5e-5, atol=1e-6)


def test_what_is_measured_and_saved_is_plain(tmp_path: Path) -> None:
    """To the last bit: without gradients, with the adapter off, and read back by peft alone."""
    from peft import PeftModel

    plain, quick = adapted().eval(), adapted().eval()
    quicken(quick, "auto")
    ids = torch.randint(3, 100, (2, 11))
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, quick(ids).logits)
    with torch.no_grad(), quick.disable_adapter(), plain.disable_adapter():
        assert torch.equal(plain(ids).logits, quick(ids).logits)
    for model, name in ((plain, "plain"), (quick, "quick")):
        model.save_pretrained(str(tmp_path / name))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "quick" / file).read_bytes()
    read = PeftModel.from_pretrained(build_model(100), str(tmp_path / "quick")).eval()
    with torch.no_grad():
        assert torch.equal(read(ids).logits, quick(ids).logits)
    with torch.no_grad():
        assert torch.equal(quick.merge_and_unload()(ids).logits, plain.merge_and_unload()(ids).logits)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_run_plain(settings: dict[str, Any]) -> None:
    assert "lora" not in quicken(adapted(**settings), "auto")


def test_plain_is_plain() -> None:
    model = adapted()
    kinds = [type(module) for module in model.modules()]
    assert quicken(model, "plain") == [] and [type(module) for module in model.modules()] == kinds
    before = model.config._attn_implementation
    assert quicken(model, "auto") and [type(module) for module in model.modules()] != kinds
    plain(model)
    assert [type(module) for module in model.modules()] == kinds and model.config._attn_implementation == before


SIZES = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EVERY = ["lora", "norm", "gated", "attention"]
FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Llama": ({}, EVERY),
    "Qwen2": ({}, EVERY),
    "Qwen3": ({}, EVERY),
    "Mistral": ({"sliding_window": 5}, EVERY),
    "Gemma": ({}, EVERY),
    "Gemma3Text": ({"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}, EVERY),
    "GPT2": (
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
        ["attention"],
    ),
    "Phi3": ({}, ["lora", "attention"]),
}
PIECES = ((7, None), (4, 0), (3, 0), (5, None))
"""A prompt with two answers, and a stranger."""


def family(name: str) -> Any:
    """A tiny model of a family, of which every linear layer is adapted."""
    import transformers
    from peft import LoraConfig, get_peft_model

    from luthier.models.load import _use_segment_attention

    torch.manual_seed(0)
    settings = SIZES | FAMILIES[name][0]
    kind = (
        "Gemma3ForCausalLM" if name == "Gemma3Text" else "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    )
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**settings))
    _use_segment_attention(model)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=name == "GPT2")
    return get_peft_model(model, config).train()


def packed(model: Any) -> dict[str, Tensor]:
    """The hidden states of a packed row, and the gradients of what is trained."""
    ids = torch.randint(3, 100, (1, 19), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[*range(7), *range(7, 11), *range(7, 10), *range(5)]])
    found = model(input_ids=ids, position_ids=places, pieces=PIECES, use_cache=False).logits
    (found * torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)).sum().backward()
    return {"logits": found.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.skipif(native.reason() is not None, reason="no compiler")
@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_as_near_to_float64(name: str) -> None:
    quick = family(name)
    assert quicken(quick, "auto") == FAMILIES[name][1]
    exact, found = packed(family(name).double()), packed(quick)
    assert exact.keys() == found.keys()
    for key, value in exact.items():
        assert (found[key] - value).norm() <= 5e-5 * value.norm(), key


def test_without_helpers_only_what_torch_computes() -> None:
    """As on a machine without a compiler, and where another process has none."""
    assert quicken(adapted(), "auto", helpers=False) == ["lora"]
    with pytest.raises(UserError, match=r"train\.kernels: norm, gated: one of the processes has no native helpers"):
        quicken(adapted(), ["norm", "gated"], helpers=False)
