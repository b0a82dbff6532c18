"""AdamW against torch's own loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luthier.train.optim.adamw import AdamW
from luthier.train.optim.base import Group


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("settings", [AdamW(), AdamW(betas=(0.8, 0.95), eps=1e-6)])
def test_equals_adamw_of_torch(settings: AdamW, decay: float) -> None:
    """Ten steps of a changing learning rate, in float64: the plain loop of torch on the same gradients."""
    torch.manual_seed(0)
    start = {"weight": torch.randn(5, 3, dtype=torch.float64), "bias": torch.randn(5, dtype=torch.float64)}
    ours = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    theirs = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = settings.build([Group({"weight": ours["weight"]}, decay), Group({"bias": ours["bias"]}, 0.0)])
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
