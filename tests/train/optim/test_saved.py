"""What an optimizer remembers, as tensors and back: every kind of entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from luthier.errors import CheckpointError
from luthier.train.optim.saved import SHARDING, TensorFile, load_optimizer, optimizer_tensors


class Helper:
    """As the projectors of GaLore."""

    def __init__(self) -> None:
        self.matrix: Tensor | None = None
        self.seed, self.scale, self.kind = 0, 0.1, "std"


def sgd(model: nn.Module, **entries: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters())
    for parameter in model.parameters():
        optimizer.state[parameter].update(entries)
    return optimizer


def test_every_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    helper, model = Helper(), nn.Linear(3, 2)
    helper.matrix, helper.seed = torch.randn(2, 2), 2**62 + 1
    entries: dict[str, Any] = {
        "exp_avg": torch.randn(2, 3).T,
        "state1": torch.arange(256, dtype=torch.uint8),
        "step": 7,
        "flag": True,
        "weight_sum": 0.1 + 0.2,
        "norm": torch.tensor(0.3),
        "projector": helper,
    }
    save_file(optimizer_tensors(sgd(model, **entries), model), tmp_path / "x.safetensors")
    again = sgd(model)
    for parameter in model.parameters():
        again.state[parameter]["projector"] = Helper()
    load_optimizer(again, model, TensorFile(tmp_path / "x.safetensors"))
    for parameter in model.parameters():
        found = again.state[parameter]
        assert found.keys() == entries.keys()
        for name, value in entries.items():
            if isinstance(value, Tensor):
                assert torch.equal(found[name], value) and found[name].dtype == value.dtype
            elif name != "projector":
                assert found[name] == value and type(found[name]) is type(value)
        inner: Helper = found["projector"]
        assert inner.matrix is not None and torch.equal(inner.matrix, helper.matrix)
        assert (inner.seed, inner.scale, inner.kind) == (2**62 + 1, 0.1, "std") and type(inner.seed) is int


def test_tensors_that_a_library_shares_are_saved_once_each(tmp_path: Path) -> None:
    model, table = nn.Linear(3, 2), torch.arange(5.0)
    save_file(optimizer_tensors(sgd(model, qmap1=table), model), tmp_path / "x.safetensors")
    again = sgd(model)
    load_optimizer(again, model, TensorFile(tmp_path / "x.safetensors"))
    first, second = (again.state[parameter]["qmap1"] for parameter in model.parameters())
    assert torch.equal(first, table) and torch.equal(second, table)


def test_pieces_of_several_processes_are_whole_again(tmp_path: Path) -> None:
    """As torch's distributed checkpoints lie: each file says where its pieces begin; some have a tensor alone."""
    whole = torch.arange(30.0).view(5, 6)
    for name, rows, columns in (
        ("a", slice(0, 3), slice(0, 6)),
        ("b", slice(3, 5), slice(0, 4)),
        ("c", slice(3, 5), slice(4, 6)),
    ):
        begins = {"w|exp_avg": {"saved_offsets": [rows.start, columns.start]}, f"{name}|step": {"saved_offsets": []}}
        tensors = {"w|exp_avg": whole[rows, columns].contiguous(), f"{name}|step": torch.tensor(ord(name))}
        (tmp_path / "optimizer").mkdir(exist_ok=True)
        save_file(tensors, tmp_path / "optimizer" / f"{name}.safetensors", metadata={SHARDING: json.dumps(begins)})
    found = TensorFile(tmp_path / "optimizer.safetensors")
    assert list(found) == ["a|step", "b|step", "c|step", "w|exp_avg"] and len(found) == 4
    assert torch.equal(found["w|exp_avg"], whole) and found["b|step"] == ord("b")


@pytest.mark.parametrize("value", [None, "text", [1, 2], {"a": 1}])
def test_what_no_checkpoint_holds(value: Any) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=f"keeps 'strange' as a {type(value).__name__}; no checkpoint holds that"):
        optimizer_tensors(sgd(model, strange=value), model)


def test_loaded_state_is_not_a_window_into_the_file(tmp_path: Path) -> None:
    """A checkpoint may be removed, or be rewritten, while the run goes on."""
    model, file = nn.Linear(3, 2, bias=False), tmp_path / "x.safetensors"
    save_file(optimizer_tensors(sgd(model, exp_avg=torch.ones(2, 3)), model), file)
    again = sgd(model)
    load_optimizer(again, model, TensorFile(file))
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(again.state[model.weight]["exp_avg"], torch.ones(2, 3))


def test_an_optimizer_of_other_parameters() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match="'strange', which this run does not train"):
        load_optimizer(sgd(model), model, {"strange|exp_avg": torch.zeros(1)})


@pytest.mark.parametrize("kernel", ["fused", "foreach", "capturable"])
def test_the_number_of_steps_stands_where_torch_wants_it(kernel: str) -> None:
    """A fused kernel counts on the device; torch's own optimizers say where."""
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW([model.weight], fused=kernel == "fused", capturable=kernel == "capturable")
    with FakeTensorMode(allow_non_fake_inputs=True):  # which knows of devices that are not there
        model.weight = torch.nn.Parameter(torch.empty(2, 2, device="cuda"))
        optimizer.param_groups[0]["params"] = [model.weight]
        load_optimizer(optimizer, model, {"weight|step": torch.tensor(3.0), "weight|exp_avg": torch.zeros(2, 2)})
    state = optimizer.state[model.weight]
    assert state["step"].device.type == ("cpu" if kernel == "foreach" else "cuda")
    assert state["exp_avg"].device.type == "cuda"


def test_what_another_process_holds_is_left_to_it() -> None:
    """A pipeline's stage has the other stages' parameters without numbers."""
    model = torch.nn.Linear(2, 2, bias=False).to("meta")
    optimizer = sgd(model)
    load_optimizer(optimizer, model, {"weight|step": torch.tensor(3.0), "weight|exp_avg": torch.zeros(2, 2)})
    assert not optimizer.state[model.weight]
