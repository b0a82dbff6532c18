"""Checkpoints that appear whole, are verified when read, and bring a run back exactly.

`checkpoint-N/` holds the weights to use and the tokenizer as plain transformers or peft load them,
`optimizer.safetensors` (with the weights of training, where they differ from those to use; `optimizer/` with a file of
each process, where no process holds all), `random.safetensors` (one tensor per rank), `state.json`, `scaler.json` in
fp16, and `manifest.json` with the sha256 of every file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.adapters.base import Adapter, trainable
from luthier.data.loader import LoaderLike
from luthier.distributed.strategy import Strategy, local
from luthier.errors import StorageError, TrainingError
from luthier.models.output import without_value_head
from luthier.system.files import PREFIX, beside_incomplete_folder, complete_folder, incomplete_folder, sha256_of
from luthier.train.memory import held
from luthier.train.optim.saved import TensorFile, load_optimizer, optimizer_tensors
from luthier.train.optim.wrapped import evaluation_weights
from luthier.train.scaling import LossScaler
from luthier.train.state import State, random_state, restore_random_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "checkpoint-"
_OF_OPTIMIZER = re.compile(r"optimizer(/.+)?\.safetensors")
MANIFEST = "manifest.json"
VALUES, MEMORY = "value_head.safetensors", "loader.safetensors"
SCALER = "scaler.json"
"""Only where there is loss scaling."""
OPTIMIZER = "optimizer.safetensors"
"""Or a folder `optimizer`, with a file of each process, where it is cut."""
ALWAYS = ("state.json", "random.safetensors")
"""Files of every checkpoint, besides those of its adapter and its optimizer."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a checkpoint is made of besides the state. `model` is the bare model, without a strategy's wrapper."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    strategy: Strategy
    loader: LoaderLike
    scaler: LossScaler | None = None

    def save(self, folder: Path) -> None:
        """The trained weights and the tokenizer, as plain libraries load them: all ranks ask, the first one writes."""
        with self._whole(), without_value_head(self.model):
            if self.strategy.rank == 0:
                self.adapter.save(self.model, folder)
                self.tokenizer.save_pretrained(folder)

    def checkpoint(self, folder: Path) -> None:
        """As `save`, and besides whatever training goes on with exactly: all ranks ask."""
        with evaluation_weights(self.optimizer):  # which remembers those of training, where they differ
            self.strategy.save(optimizer_tensors(self.optimizer, self.model), folder / OPTIMIZER)
            with self._whole():
                if self.strategy.rank == 0:
                    self._write(folder)

    def _write(self, folder: Path) -> None:
        with without_value_head(self.model) as head:
            self.adapter.checkpoint(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        kept = self.loader.memory()
        if head is not None:
            save_file(head.state_dict(), folder / VALUES)
        if kept:
            save_file(kept, folder / MEMORY)
        if self.scaler is not None:
            (folder / SCALER).write_text(json.dumps(self.scaler.state()), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Put the weights of a checkpoint back."""
        with self._whole(write=True), without_value_head(self.model) as head:
            self.adapter.load(self.model, folder)
            if head is not None:
                head.load_state_dict(load_file(folder / VALUES))

    def _whole(self, *, write: bool = False) -> AbstractContextManager[None]:
        """The model with whole weights, as far as they are kept."""
        return self.strategy.gathered(self.model, frozen=self.adapter.trains_base, write=write)


class Checkpoints:
    """The checkpoints of one output folder.

    They are written behind the training: what is trained goes into files while it waits, which the system keeps in
    memory (hardly slower than copies of the tensors, and without the memory of copies); a thread of the first process
    makes them durable, adds their hashes, and gives the folder its name. So a checkpoint counts a little later than its
    step; whoever reads one waits for it (`settle`).
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._behind: Future[None] | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step stands."""
        return self.folder / f"{NAME}{step}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        found = (path.name.removeprefix(NAME) for path in self.folder.glob(f"{NAME}*"))
        return sorted(int(number) for number in found if number.isdigit())

    def save(self, state: State, trained: Trained) -> None:
        """Write a checkpoint from all ranks together, and remove the ones no longer needed when it counts.

        Raises:
            StorageError: the disk refused this one or the one before; earlier checkpoints are intact.
        """
        strategy, first = trained.strategy, trained.strategy.rank == 0
        self.settle(strategy)
        _require_finite(state, trained, self.newest)
        random = strategy.gather(random_state(strategy.device))
        if strategy.any(first and self._state(state.step) != state):
            path, size = self.path(state.step), _size(trained)
            opened = incomplete_folder(path) if first else beside_incomplete_folder(path)
            with _says_how_much(size), opened as folder:
                strategy.barrier()  # before it there is no folder
                trained.checkpoint(folder)
                strategy.barrier()  # before it not all pieces are there
            if first:
                self._behind = self._thread.submit(self._complete, state, path, random, size)

    def settle(self, strategy: Strategy) -> None:
        """Wait, all ranks together, until the last checkpoint counts.

        Raises:
            StorageError: the disk refused it; earlier checkpoints are intact.
        """
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.result()
        strategy.barrier()

    def wait(self) -> None:
        """Let what is being written come to its end, whatever that is; this rank alone, for a run that has failed."""
        if self._behind is not None:
            self._behind.exception()

    def _complete(self, state: State, path: Path, random: Sequence[Tensor], size: int) -> None:
        with _says_how_much(size):
            complete_folder(path, lambda folder: _describe(state, folder, random))
        self._remove_old(state)

    def _state(self, step: int) -> State | None:
        """The state that stands in the checkpoint of a step: it may be that of the same weights before skipped rows."""
        try:
            return State(**json.loads((self.path(step) / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are all as they were written."""
        return next((self.path(step) for step in reversed(self.steps()) if verify(self.path(step)) is None), None)

    def remove_damaged(self, strategy: Strategy) -> dict[str, str]:
        """Remove checkpoints that must not be used, so that they are written anew; returns what was wrong with each.

        What a killed process left half-way goes too.
        """
        faults = {step: fault for step in self.steps() if (fault := verify(self.path(step)))}
        strategy.barrier()
        if strategy.rank == 0:
            for path in [*map(self.path, faults), *self.folder.glob(f"{PREFIX}*{NAME}*")]:
                shutil.rmtree(path)
        strategy.barrier()
        return {str(self.path(step)): fault for step, fault in faults.items()}

    def restore(self, path: Path, trained: Trained) -> State:
        """Weights, optimizer and random state as they were; returns the state."""
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        trained.load(path)
        trained.loader.remember(load_file(path / MEMORY) if (path / MEMORY).exists() else {})
        memory = TensorFile(path / OPTIMIZER)
        load_optimizer(trained.optimizer, trained.model, memory, trained.strategy.part)
        if trained.scaler is not None:
            trained.scaler.load(json.loads((path / SCALER).read_text(encoding="utf-8")))
        random = load_file(path / "random.safetensors")
        mine = random.get(f"rank_{trained.strategy.rank}")
        if mine is not None:  # more ranks than before: the new ones keep their seed
            restore_random_state(mine, trained.strategy.device)
        if state.best_step is None or state.best_step in self.steps():
            return state
        return replace(state, best_loss=None, best_step=None)  # it was damaged, and another can be best

    def _remove_old(self, state: State) -> None:
        kept = {*self.steps()[-self.keep :], state.best_step}
        for step in self.steps():
            if step not in kept:
                leaving = self.path(step).with_name(f"{PREFIX}{self.path(step).name}")
                self.path(step).rename(leaving)  # killed half-way, it would look like a damaged checkpoint
                shutil.rmtree(leaving)


def _describe(state: State, folder: Path, random: Sequence[Tensor]) -> None:
    """Add the state, and the hash of every file."""
    save_file({f"rank_{i}": tensor for i, tensor in enumerate(random)}, folder / "random.safetensors")
    (folder / "state.json").write_text(json.dumps(state.to_json()), encoding="utf-8")
    sums = {str(f.relative_to(folder)): sha256_of(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def _require_finite(state: State, trained: Trained, newest: Callable[[], Path | None]) -> None:
    """Refuse to keep weights that are no numbers."""
    weights = {name: local(parameter.detach()) for name, parameter in trainable(trained.model).items()}
    largest = {
        name: torch.linalg.vector_norm(w, torch.inf) for name, w in weights.items() if w.numel() and not w.is_meta
    }
    broken = [name for name, norm in largest.items() if not bool(norm.isfinite())]
    if trained.strategy.any(bool(broken)):
        broken = broken or ["in another process"]
        raise TrainingError(
            f"after step {state.step} {len(broken)} weights are not finite ({broken[0]}); nothing of this was saved, "
            f"the last good checkpoint is {newest() or 'none'}. A lower learning rate or fp32 usually helps"
        )


def _size(trained: Trained) -> int:
    """About the bytes of a checkpoint: of what is trained, and gradients are as large as weights."""
    there = held(trained.model, trained.optimizer)
    return there.gradients + there.optimizer


@contextmanager
def _says_how_much(size: int) -> Iterator[None]:
    """A refused write says what a checkpoint takes."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error} A checkpoint of this run takes about {size / 1e6:,.1f} MB.") from error


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or cut off"
    if not isinstance(sums, dict) or not set(ALWAYS) <= set(sums) or not any(map(_OF_OPTIMIZER.match, sums)):
        return f"{MANIFEST} is not as it was written"
    for name, expected in sums.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        try:
            if sha256_of(file) != expected:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None
