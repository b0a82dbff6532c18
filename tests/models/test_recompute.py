"""Gradient checkpointing: the same gradients with fewer bytes kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.adapters.base import trainable
from luthier.adapters.full import Full
from luthier.adapters.lora import Lora
from luthier.config import TrainConfig, parse_section
from luthier.errors import ConfigError, ModelError
from luthier.models.output import Forward
from luthier.models.recompute import recompute_layers
from tests.models.test_output import batch_of, llama

LAYERS = 4


def gradients(adapter: Any, every: int | None) -> tuple[dict[str, Tensor], int]:
    """Gradients of a loss, and the bytes that were kept for the backward pass, each tensor counted once."""
    model = adapter.attach(llama(num_hidden_layers=LAYERS))
    if every is not None:
        recompute_layers(model, every)
    model.train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    batch = batch_of([3, 7], [5, 9, 11])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = -Forward(model)(model, batch).logprobs(batch.targets).sum()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    loss.backward()
    found = {name: p.grad for name, p in trainable(model).items() if p.grad is not None}
    return found, sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=2, dropout=0.3)], ids=["full", "lora-dropout"])
def test_the_same_gradients_with_fewer_bytes_kept(adapter: Any) -> None:
    plain, whole = gradients(adapter, None)
    kept = {}
    for every in (LAYERS, 2, 1):
        found, kept[every] = gradients(adapter, every)
        assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    assert whole > kept[LAYERS] > kept[2] > kept[1]


@pytest.mark.parametrize("every", [True, 1, 2])
def test_a_run_is_the_same(run_config: Callable[..., Any], tmp_path: Path, every: Any) -> None:
    import luthier

    def weights(name: str, setting: Any) -> bytes:
        adapter = {"type": "lora", "dropout": 0.1}
        folder = tmp_path / name
        config = run_config(adapter=adapter, train__gradient_checkpointing=setting, output__dir=str(folder))
        luthier.Factory().fine_tune(config)
        return (folder / "adapter_model.safetensors").read_bytes()

    assert weights("plain", False) == weights("less", every)


def test_a_model_that_cannot() -> None:
    model = llama()
    model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match=r"train\.gradient_checkpointing: LlamaForCausalLM .*; write false"):
        recompute_layers(model, 1)


@pytest.mark.parametrize(("given", "read"), [(False, False), (True, True), (1, 1), (3, 3)])
def test_what_may_be_written(given: Any, read: Any) -> None:
    setting = parse_section(TrainConfig, {"gradient_checkpointing": given}, source="x").gradient_checkpointing
    assert setting == read and type(setting) is type(read)


@pytest.mark.parametrize("given", [-1, "some", 1.5])
def test_what_may_not_be_written(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_section(TrainConfig, {"gradient_checkpointing": given}, source="x")
    assert {problem.path for problem in caught.value.problems} == {"gradient_checkpointing"}
