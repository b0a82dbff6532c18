"""What an adapter is shown of the training data before training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters.base import Adapter, Run
from luthier.assembly import Assembly


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def shown(request: pytest.FixtureRequest, run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run's model, what its adapter is handed, and its training rows."""
    from luthier.adapters.lora import Lora

    caught: dict[str, Any] = {}
    attach = Lora.attach

    def watch(self: Any, model: Any, run: Run) -> Any:
        caught.update(model=model, run=run)
        return attach(self, model, run)

    monkeypatch.setattr(Lora, "attach", watch)
    config = run_config(data__packing=request.param, train__micro_batch_tokens=120, train__max_steps=7)
    factory = luthier.Factory()
    ready = factory.prepare(config)
    Assembly(config, ready, config.parallel.open(), models=factory.models, evaluator=factory.evaluator).job(
        restart=True
    )
    return caught["model"], caught["run"], ready, config


def test_every_position_is_a_token_of_a_training_row(shown: Any) -> None:
    model, run, ready, _ = shown
    seen: list[list[int]] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda module, args: seen.extend(args[0].tolist()))
    batches = run.calibrate(model)
    expected = sorted(t.ids.tolist() for e in ready.data.train for t in e.sequences)
    while sum(map(len, seen[2:])) < sum(map(len, expected)):  # the first two find out whether the head is bent
        next(batches)
    hook.remove()
    starts = {tuple(ids) for ids in expected}
    for row in seen[2:]:
        assert any(tuple(row[: len(ids)]) == ids for ids in starts)
    assert sorted(token for row in seen[2:] for token in row) == sorted(token for ids in expected for token in ids)
    assert run.total_steps == 7 and run.checkpoint() is None and run.start is None


def test_gradients_are_those_of_one_micro_batch(shown: Any) -> None:
    model, run, _, _ = shown
    weights = [p for p in model.parameters() if p.requires_grad]
    found = []
    for _ in islice(run.calibrate(model), 2):
        found.append([p.grad.clone() for p in weights])
    assert not all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    again = run.calibrate(model)
    next(again)
    assert all(torch.equal(p.grad, before) for p, before in zip(weights, found[0], strict=True))
    with torch.no_grad():
        next(again)
    assert all(p.grad is None for p in weights)


def test_every_rank_is_shown_the_same(shown: Any) -> None:
    from luthier.distributed.single import SingleStrategy

    model, _, ready, config = shown

    class Second(SingleStrategy):
        rank, ranks = 1, 2

    found = []
    for strategy in (SingleStrategy(torch.device("cpu")), Second(torch.device("cpu"))):
        factory = luthier.Factory()
        assembly = Assembly(config, ready, strategy, models=factory.models, evaluator=factory.evaluator)
        rows = assembly._rows(ready.data)
        seen: list[list[int]] = []
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].tolist()))
        for _ in islice(assembly._calibrate(model, rows), 5):
            pass
        hook.remove()
        found.append(seen)
    assert found[0] == found[1] and len(found[0]) >= 5


def test_defaults_know_nothing(model: Any) -> None:
    assert list(Run().calibrate(model)) == [] and Run().checkpoint() is None and Run().total_steps == 0
    with pytest.raises(TypeError, match="abstract methods attach, load, save"):
        Adapter(type="mine")  # type: ignore[abstract]
