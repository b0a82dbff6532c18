"""Quickened models are the models that they were: same losses and gradients, same files, plain wherever it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.models.faster import quicken
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
    with quick.disable_adapter(), plain.disable_adapter():
        assert torch.equal(plain(ids).logits, quick(ids).logits)
    for model, name in ((plain, "plain"), (quick, "quick")):
        model.save_pretrained(str(tmp_path / name))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "quick" / file).read_bytes()
    read = PeftModel.from_pretrained(build_model(100), str(tmp_path / "quick")).eval()
    with torch.no_grad():
        assert torch.equal(read(ids).logits, quick(ids).logits)
    assert torch.equal(quick.merge_and_unload()(ids).logits, plain.merge_and_unload()(ids).logits)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_run_plain(settings: dict[str, Any]) -> None:
    assert "lora" not in quicken(adapted(**settings), "auto")


def test_plain_is_plain() -> None:
    model = adapted()
    kinds = [type(module) for module in model.modules()]
    assert quicken(model, "plain") == [] and [type(module) for module in model.modules()] == kinds
