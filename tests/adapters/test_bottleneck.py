"""Bottleneck adapters as a method of peft: exact at step 0, off and unloaded; several at once; found by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier.adapters.base import trainable
from luthier.adapters.bottleneck import Bottleneck
from luthier.errors import ModelError
from tests.adapters.conftest import shake

IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("bend", ["relu", "gelu", "silu", "tanh"])
def test_it_computes_what_the_paper_says(model: Any, placement: Any, bend: Any) -> None:
    """h + U f(D h) on the output of attention and of the MLP, before the residual is added."""
    part = Bottleneck(placement=placement, bottleneck_size=4, non_linearity=bend)
    tuned = shake(part.attach(model), 0.3)
    block = tuned.base_model.model.model.layers[1]
    functions = {"relu": nn.functional.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu, "tanh": torch.tanh}
    places = {"mlp": block.mlp.down_proj} | ({"attention": block.self_attn.o_proj} if placement == "houlsby" else {})
    assert len(trainable(tuned)) == 4 * 2 * len(places)
    hidden = torch.randn(2, 5, 64)
    for place, layer in places.items():
        given = torch.randn(2, 5, layer.base_layer.in_features)
        plain = layer.base_layer(given)
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        bent = functions[bend](plain @ down.weight.T + down.bias) @ up.weight.T + up.bias
        torch.testing.assert_close(layer(given), plain + bent, rtol=0, atol=1e-6, msg=place)
    residual, mlp = hidden.clone(), block.mlp
    inner = mlp.down_proj.base_layer(mlp.act_fn(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
    down, up = mlp.down_proj.bottleneck_down["default"], mlp.down_proj.bottleneck_up["default"]
    expected = residual + inner + up(functions[bend](down(inner)))
    torch.testing.assert_close(residual + mlp(hidden), expected, rtol=0, atol=1e-6)


def test_nothing_at_first_off_or_unloaded(model: Any) -> None:
    before = logits(model)
    tuned: Any = Bottleneck(bottleneck_size=4).attach(model)
    assert torch.equal(logits(tuned), before)
    shake(tuned)
    assert not torch.allclose(logits(tuned), before, atol=1e-2)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), before)
    assert not torch.equal(logits(tuned), before)
    with pytest.raises(ValueError, match="cannot be merged"):
        tuned.merge_adapter()
    plain = tuned.unload()
    assert torch.equal(logits(plain), before) and not [n for n, _ in plain.named_parameters() if "bottleneck" in n]


def test_several_at_once(model: Any, tmp_path: Path) -> None:
    """Two adapters of different shapes on one model: each as when it is alone, one behind the other, and deleted."""
    from copy import deepcopy

    model.name_or_path = "base"
    alone = {}
    for name, part in {"one": Bottleneck(bottleneck_size=4), "two": Bottleneck(placement="pfeiffer")}.items():
        tuned = shake(part.attach(deepcopy(model)), 0.1 if name == "one" else 0.2)
        (tmp_path / name).mkdir()
        part.save(tuned, tmp_path / name)
        alone[name] = logits(tuned)
    from peft import PeftModel

    both: Any = PeftModel.from_pretrained(model, str(tmp_path / "one"), adapter_name="one")
    both.load_adapter(str(tmp_path / "two"), adapter_name="two")
    for name in ("two", "one", "two"):
        both.set_adapter(name)
        assert torch.equal(logits(both), alone[name])
        assert {n.split(".")[-2] for n in trainable(both)} == {name}
    both.base_model.set_adapter(["one", "two"])
    layer = both.base_model.model.model.layers[0].mlp.down_proj
    given = torch.randn(3, layer.base_layer.in_features)
    expected = layer.base_layer(given)
    for name in ("one", "two"):
        expected = expected + layer.bottleneck_up[name](layer.bottleneck_down[name](expected).relu())
    torch.testing.assert_close(layer(given), expected)
    both.set_adapter("one")
    both.delete_adapter("two")
    assert torch.equal(logits(both), alone["one"]) and not [n for n, _ in both.named_modules() if n.endswith(".two")]


PLAIN = """
import sys, torch
import luthier.models.bottleneck
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, folder = sys.argv[1:]
tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
print(repr(float(tuned(torch.arange(3, 40)[None], use_cache=False).logits.double().sum())))
"""


def test_plain_peft_loads_it_after_importing_one_module(tiny: Path, tmp_path: Path) -> None:
    from luthier.config import ModelConfig
    from luthier.models.load import ModelLoader

    part = Bottleneck(bottleneck_size=4)
    tuned = shake(part.attach(ModelLoader().load(ModelConfig(path=str(tiny)))))
    part.save(tuned, tmp_path)
    command = [sys.executable, "-c", PLAIN, str(tiny), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert float(said.stdout) == float(logits(tuned).double().sum())


def test_names_of_layers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=64)).eval()
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    for model, attention, mlp in ((gpt2, "attn.c_proj", "mlp.c_proj"), (neox, "attention.dense", "dense_4h_to_h")):
        before = logits(model)
        tuned: Any = Bottleneck(bottleneck_size=4).attach(model)
        assert torch.equal(logits(tuned), before)
        assert sorted(tuned.peft_config["default"].target_modules) == sorted([attention, mlp])
    neox = tuned.unload()
    neox.gpt_neox.layers[0].attention.strange = neox.gpt_neox.layers[0].attention.dense
    del neox.gpt_neox.layers[0].attention.dense
    with pytest.raises(ModelError, match=r"no layer of GPTNeoXForCausalLM is known to end its attention; name the"):
        Bottleneck().attach(neox)
    assert len(trainable(Bottleneck(target_modules=["strange"]).attach(neox))) == 4
