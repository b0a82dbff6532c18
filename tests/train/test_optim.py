"""AdamW against torch's, and what is never decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luthier.adapters.base import trainable
from luthier.adapters.full import Full
from luthier.train.optim import AdamW, decay_groups
from tests.conftest import build_model


def test_norms_and_biases_are_never_decayed() -> None:
    model = Full().attach(build_model(50, attention_bias=True, mlp_bias=True, tie_word_embeddings=False))
    parameters = trainable(model)
    decayed, plain = decay_groups(parameters, 0.1)
    names = {id(parameter): name for name, parameter in parameters.items()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in plain["params"])
    assert not any("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in decayed["params"])
    assert {id(p) for group in (decayed, plain) for p in group["params"]} == set(names)
    assert any(names[id(p)].endswith("bias") for p in plain["params"])


def test_no_group_is_empty() -> None:
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    assert [group["params"] for group in decay_groups({"a": matrix}, 0.1)] == [[matrix]]
    assert [group["params"] for group in decay_groups({"a": vector}, 0.1)] == [[vector]]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("settings", [AdamW(), AdamW(betas=(0.8, 0.95), eps=1e-6)])
def test_equals_adamw_of_torch(settings: AdamW, decay: float) -> None:
    """Ten steps of a changing learning rate, in float64: the plain loop of torch on the same gradients."""
    torch.manual_seed(0)
    start = {"weight": torch.randn(5, 3, dtype=torch.float64), "bias": torch.randn(5, dtype=torch.float64)}
    ours = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    theirs = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = settings.build(ours, weight_decay=decay)
    groups = [{"params": [theirs["weight"]], "weight_decay": decay}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, foreach=False, fused=False)
    for step in range(10):
        for name, value in start.items():
            ours[name].grad = torch.randn_like(value) * 10 ** (step % 3 - 1)
            theirs[name].grad = ours[name].grad.clone()
        for group in (*optimizer.param_groups, *plain.param_groups):
            group["lr"] = 0.1 / (step + 1)
        optimizer.step()
        plain.step()
        for name in start:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-12)
    assert not torch.equal(ours["weight"], start["weight"])
