"""A quantised base: its gradients are those of what it stands for, whatever was computed in between."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters.base import count_parameters, trainable
from luthier.adapters.lora import Lora
from luthier.adapters.qlora import QLora
from luthier.config import ModelConfig
from luthier.errors import MissingExtra, ModelError
from luthier.models.load import ModelLoader
from luthier.models.output import Forward
from tests.adapters.conftest import build_qwen3, rows, shake

IDS = torch.arange(3, 40)[None]


@pytest.fixture(params=["llama", "qwen3"])
def folder(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Path:
    if request.param == "llama":
        return tiny
    build_qwen3().save_pretrained(tmp_path / "qwen3")
    return tmp_path / "qwen3"


def load(folder: Path, bits: int | None) -> Any:
    return ModelLoader().load(ModelConfig(path=str(folder)), bits=bits)


def stands_for(quantised: Any, folder: Path) -> Any:
    """The model of whose weights the quantised ones are the codes, in float32."""
    from peft.utils.integrations import dequantize_module_weight

    plain = load(folder, None)
    for name, module in quantised.named_modules():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
            plain.get_submodule(name).weight.data = dequantize_module_weight(module).float()
    return plain


def slopes(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    Forward(model)(model.train(), batch).logprobs(batch.targets).mean().backward()
    model.eval()
    return {name: p.grad.clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_pass_through_the_base_also_after_an_evaluation(
    folder: Path, padded: Callable[..., Any], bits: int
) -> None:
    quantised = load(folder, bits)
    plain = stands_for(quantised, folder)
    both = []
    for model in (quantised, plain):
        torch.manual_seed(0)
        both.append(shake(Lora(rank=2).attach(model), 0.05))
    ours, theirs = both
    batch = padded(*rows(12, 20))
    expected = slopes(theirs, batch)
    for _ in range(2):
        found = slopes(ours, batch)
        for name, slope in expected.items():
            error = float((found[name] - slope).norm() / slope.norm())
            assert error < (1e-6 if bits == 4 else 1e-3), (name, error)
        with torch.no_grad():  # where bitsandbytes would pack the weights anew
            ours(IDS, use_cache=False)


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_quantised(folder: Path, bits: int) -> None:
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    model, plain = load(folder, bits), load(folder, None)
    kind = Linear4bit if bits == 4 else Linear8bitLt
    codes = [module for module in model.modules() if isinstance(module, kind)]
    assert len(codes) == 14 and type(model.get_output_embeddings()) is torch.nn.Linear
    assert count_parameters(model)[1] == count_parameters(plain)[1], "packed codes count as what they stand for"
    if bits == 4:
        assert {module.weight.quant_state.quant_type for module in codes} == {"nf4"}
        assert all(module.weight.quant_state.nested for module in codes)


def test_merging_is_onto_full_precision(run_config: Callable[..., Any], tiny: Path) -> None:
    from luthier.adapters.merge import merged

    config = run_config(adapter={"type": "qlora", "rank": 4}, train__learning_rate=1e-2)
    luthier.Factory().fine_tune(config)
    tuned = load(Path(config.output.dir), None)
    found = merged(config.output.dir)
    base = dict(load(tiny, None).named_parameters())
    with torch.no_grad():
        assert float((found(IDS, use_cache=False).logits - tuned(IDS, use_cache=False).logits).abs().max()) < 1e-5
    for name, module in tuned.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            expected = base[f"{name}.weight"] + module.get_delta_weight("default")
            assert torch.allclose(found.get_submodule(name).weight, expected, atol=1e-7)


def test_a_model_is_used_as_it_was_trained(run_config: Callable[..., Any]) -> None:
    """Its checkpoints too, and nothing of the kind for other runs."""
    config = run_config(adapter={"type": "qlora", "rank": 4, "bits": 8})
    luthier.Factory().fine_tune(config)
    for place in (config.output.dir, f"{config.output.dir}/checkpoint-4"):
        used = ModelLoader().load_for_use(ModelConfig(path=place))
        assert used.get_base_model().is_loaded_in_8bit
    plain = run_config(adapter="lora", output__dir=f"{config.output.dir}-plain")
    luthier.Factory().fine_tune(plain)
    assert ModelLoader().load_for_use(ModelConfig(path=plain.output.dir)).dtype is torch.float32


def test_a_missing_library(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    with pytest.raises(
        MissingExtra, match=r"a base model in 4 bits needs bitsandbytes.*pip install 'luthier\[quantize\]'"
    ):
        load(tiny, 4)


def test_a_gguf_file_is_not_quantised_anew(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"a \.gguf file cannot be quantised anew; convert it to a model folder first"):
        load(tmp_path / "m.gguf", 4)
    assert QLora().base_bits == 4 and QLora(bits=8).base_bits == 8 and Lora().base_bits is None
