"""Resuming needs no more memory than starting: counted bytes of tensors, not those of the process."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier.adapters.full import Full
from luthier.adapters.lora import Lora
from luthier.train.checkpoint import Checkpoints
from luthier.train.optim.saved import TensorFile
from luthier.train.state import State
from tests.train.test_checkpoint import take_steps, trained


class Counted(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive; windows into files are not made by any."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.holders: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self.place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (self.place(tensor) in self.sizes or self.place(tensor) not in given):
                self.hold(tensor)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result

    @staticmethod
    def place(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def hold(self, tensor: Tensor) -> None:
        """Until the last tensor that shares its storage is gone."""
        place = self.place(tensor)
        self.sizes[place] = tensor.untyped_storage().nbytes()
        self.holders[place] = self.holders.get(place, 0) + 1
        weakref.finalize(tensor, self.release, place)

    def release(self, place: int) -> None:
        self.holders[place] -= 1
        if not self.holders[place]:
            del self.sizes[place], self.holders[place]


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that was made at once and still held."""
    with Counted() as counted:
        work()
    return counted.peak


@pytest.mark.parametrize("adapter", [Full(), Lora(rank=8)], ids=["full", "lora"])
def test_restoring_holds_the_state_once(tmp_path: Path, adapter: Any) -> None:
    first, checkpoints = trained(adapter), Checkpoints(tmp_path, keep=1)
    sizes = [p.numel() * 4 for p in first.model.parameters() if p.requires_grad]
    start = peak_bytes(lambda: take_steps(first, 2))
    saving = peak_bytes(lambda: checkpoints.save(State(step=2), first))
    second = trained(adapter)
    checkpoints.settle(first.strategy)
    restore = peak_bytes(lambda: checkpoints.restore(checkpoints.path(2), second))
    state = 2 * sum(sizes)  # of AdamW: two means
    assert restore > state, "or nothing was counted"
    assert restore < state + max(sizes) + 20_000, "a tensor at a time; the rest is small things, the random state"
    assert restore < start, "which holds gradients besides"
    assert saving < 20_000
    again = peak_bytes(lambda: take_steps(second, 1))
    assert state + again <= start, "its first step is as the second of a start"


def test_one_tensor_of_the_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a file are windows into it, whose pages count as memory of the process as long as they are held."""
    first, checkpoints = trained(Full()), Checkpoints(tmp_path, keep=1)
    take_steps(first, 1)
    checkpoints.save(State(step=1), first)
    checkpoints.settle(first.strategy)
    held: list[Any] = []
    alive = []
    plain = TensorFile.__getitem__

    def watched(file: TensorFile, name: str) -> Tensor:
        alive.append(sum(reference() is not None for reference in held))
        tensor = plain(file, name)
        held.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(TensorFile, "__getitem__", watched)
    checkpoints.restore(checkpoints.path(1), trained(Full()))
    assert len(alive) > 20 and max(alive) <= 1
