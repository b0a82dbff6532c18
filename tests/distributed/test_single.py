"""The plain strategy, which every other must equal."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from luthier.distributed.single import Single, SingleStrategy
from luthier.distributed.strategy import whole
from luthier.errors import UserError


@pytest.fixture
def strategy() -> SingleStrategy:
    return SingleStrategy(torch.device("cpu"))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would all do the same work, and write into the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="parallel: single in several processes"):
        Single().open()


class Numbers:
    """A micro-batch."""

    def __init__(self, *values: float) -> None:
        self.values = torch.tensor(values, dtype=torch.float32)

    def to(self, device: torch.device) -> Numbers:
        return self

    @property
    def inputs(self) -> dict[str, Any]:
        return {}


def loss_of(model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A loss, and two numbers besides, one of which not all batches have."""
    loss: torch.Tensor = (model(batch.values[:, None]) ** 2).sum()
    rare = {"threes": torch.tensor(1.0)} if 3 in batch.values else {}
    return loss, {"count": torch.tensor(float(len(batch.values))), **rare}


def test_gradients_are_summed_over_micro_batches(strategy: SingleStrategy) -> None:
    torch.manual_seed(0)
    model = strategy.prepare(nn.Linear(1, 1), lambda *_: nullcontext())
    whole, found = strategy.forward_backward(model, [Numbers(1, 2, 3, 4)], loss_of)
    slopes = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    parts, again = strategy.forward_backward(model, [Numbers(1), Numbers(2, 3), Numbers(4)], loss_of)
    assert parts == pytest.approx(whole, rel=1e-6) and found == again == {"count": 4.0, "threes": 1.0}
    for parameter, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)


@pytest.mark.parametrize(("limit", "after"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping(strategy: SingleStrategy, limit: float | None, after: float) -> None:
    """Over all gradients together; the norm before is returned."""
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
    for parameter, slope in zip(model.parameters(), (3.0, 4.0, None), strict=True):
        parameter.grad = None if slope is None else torch.full_like(parameter, slope)
    assert strategy.clip(model, limit) == pytest.approx(5.0)
    norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(after, rel=1e-5)


def test_a_step_forgets_its_gradients(strategy: SingleStrategy) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy.forward_backward(model, [Numbers(1, 2)], loss_of)
    before = model.weight.detach().clone()
    strategy.step(optimizer)
    assert not torch.equal(model.weight, before) and all(p.grad is None for p in model.parameters())


def test_measuring_leaves_no_gradients(strategy: SingleStrategy) -> None:
    model = nn.Linear(1, 1)
    found = strategy.measure(
        model, iter([Numbers(1), Numbers(2, 3)]), lambda m, batch: {"all": m(batch.values[:, None]).sum()}
    )
    assert found == {"all": pytest.approx(float(model(torch.tensor([[1.0], [2], [3]])).sum()))}
    assert all(p.grad is None for p in model.parameters())


def test_alone(strategy: SingleStrategy, tmp_path: Path) -> None:
    assert strategy.sum([1.5, 2]) == [1.5, 2] and strategy.any(True) and not strategy.any(False)
    (only,) = strategy.gather(torch.arange(3))
    assert torch.equal(only, torch.arange(3))
    model, tensor = nn.Linear(1, 1), torch.arange(3)
    optimizer = torch.optim.SGD(model.parameters())
    assert strategy.adopt(model, optimizer) is optimizer and strategy.lost(RuntimeError("closed by peer")) is None
    assert strategy.part(tensor, tensor) is whole(tensor) is tensor
    strategy.save({"a": tensor}, tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], tensor)
    weight = model.weight
    with strategy.gathered(model, frozen=True, write=True):
        assert model.weight is weight
    strategy.barrier()
    strategy.close()
