"""Checkpoints: whole or not at all, verified when read, and exact."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapters.base import trainable
from luthier.adapters.full import Full
from luthier.adapters.lora import Lora
from luthier.data.loader import Loader
from luthier.data.pack import Layout
from luthier.distributed.single import SingleStrategy
from luthier.errors import StorageError
from luthier.system.files import PREFIX, complete_folder
from luthier.train import checkpoint
from luthier.train.checkpoint import Checkpoints, Trained, verify
from luthier.train.optim.adamw import AdamW
from luthier.train.optim.groups import parameter_groups
from luthier.train.optim.saved import optimizer_tensors
from luthier.train.state import State, random_state, restore_random_state, seed_everything
from tests.conftest import build_model, build_tokenizer

STATE = State(step=3, tokens=77, epoch=1, position=4, best_loss=0.1 + 0.2, best_step=3)


def trained(adapter: Any, seed: int = 0) -> Trained:
    """A tiny model in training."""
    model = adapter.attach(build_model(50, seed=seed, num_hidden_layers=1))
    optimizer = AdamW().build(parameter_groups(model, adapter, weight_decay=0.1))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    loader = Loader([], batch_size=1, seed=0, layout=Layout(packing=True, tokens=8))
    return Trained(model, build_tokenizer(), adapter, optimizer, SingleStrategy(torch.device("cpu")), loader)


def take_steps(given: Trained, count: int) -> None:
    """Optimizer steps on random ids: the random state takes part."""
    given.model.train()
    for _ in range(count):
        ids = torch.randint(50, (2, 8))
        given.model(input_ids=ids, labels=ids).loss.backward()
        given.strategy.step(given.optimizer)


def save(checkpoints: Checkpoints, state: State, given: Trained) -> None:
    """Save, and wait until it counts."""
    checkpoints.save(state, given)
    checkpoints.settle(given.strategy)


def weights(given: Trained) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainable(given.model).items()}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("checkpoints")
    given = trained(Lora(rank=2))
    for step in (1, 2, 3):
        take_steps(given, 1)
        save(Checkpoints(folder, keep=9), State(step=step), given)
    return folder


@pytest.fixture
def folder(three: Path, tmp_path: Path) -> Checkpoints:
    """The three checkpoints, to damage."""
    return Checkpoints(Path(shutil.copytree(three, tmp_path / "run")), keep=9)


# ---- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [Lora(rank=2, dropout=0.3), Full()], ids=["lora", "full"])
def test_a_run_goes_on_exactly(tmp_path: Path, adapter: Any) -> None:
    seed_everything(5, rank=0)
    first, checkpoints = trained(adapter), Checkpoints(tmp_path, keep=2)
    take_steps(first, 3)
    save(checkpoints, STATE, first)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first.optimizer, first.model).items()}
    take_steps(first, 3)

    second = trained(adapter)
    newest = checkpoints.newest()
    assert newest == tmp_path / "checkpoint-3"
    assert checkpoints.restore(newest, second) == STATE
    again = optimizer_tensors(second.optimizer, second.model)
    assert saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)
    assert {key.rpartition("|")[2] for key in saved} == {"step", "exp_avg", "exp_avg_sq"}
    take_steps(second, 3)
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_random_state() -> None:
    seed_everything(1, rank=0)
    state = random_state(torch.device("cpu"))
    drawn = torch.rand(5)
    restore_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(5), drawn)
    seed_everything(1, rank=1)
    assert not torch.equal(torch.rand(5), drawn), "ranks draw differently"


def test_more_ranks_than_before_keep_their_seed(folder: Checkpoints) -> None:
    class Second(SingleStrategy):
        rank, ranks = 1, 2

    given = trained(Lora(rank=2))
    seed_everything(1, rank=1)
    before = torch.get_rng_state()
    given = replace(given, strategy=Second(torch.device("cpu")))
    folder.restore(folder.path(3), given)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3.0, 2.0, 2.5], 2),
        ([2.0, 2.0], 2),
        ([float("nan"), 2.0], 2),
        ([2.0, float("nan")], 1),
        ([float("inf"), 2.0], 2),
    ],
)
def test_the_best_step(losses: list[float], best: int) -> None:
    """The last of the lowest; what is not a number never is."""
    state = State()
    for loss in losses:
        state = state.after(norm=1.0, tokens=1, epoch=0, position=0).judged(loss)
    assert state.best_step == best and state.best_loss == losses[best - 1]
    assert State(**json.loads(json.dumps(state.to_json()))) == state


# ---- whole or not at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("half-way"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "full"), StorageError),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), StorageError),
    ],
)
@pytest.mark.parametrize("victim", ["save_file", "sha256_of"])
def test_a_failed_save_leaves_the_older_ones(
    monkeypatch: pytest.MonkeyPatch, folder: Checkpoints, error: BaseException, raised: Any, victim: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint, victim, fail)
    with pytest.raises(raised):
        save(folder, State(step=4), trained(Lora(rank=2)))
    monkeypatch.undo()
    assert sorted(path.name for path in folder.folder.iterdir()) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert folder.newest() == folder.path(3)


def test_training_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch, folder: Checkpoints) -> None:
    """What is saved is what stood at its step, whatever was learnt while the disk was at work."""
    slow, at_work = threading.Event(), threading.Event()

    def late(*arguments: Any) -> None:
        at_work.set()
        assert slow.wait(20)
        complete_folder(*arguments)

    monkeypatch.setattr(checkpoint, "complete_folder", late)
    given = trained(Lora(rank=2))
    take_steps(given, 1)
    before = weights(given)
    folder.save(State(step=4), given)
    assert at_work.wait(20) and folder.steps() == [1, 2, 3]
    take_steps(given, 1)
    slow.set()
    folder.save(State(step=5), given)  # which waits for the one before
    assert 4 in folder.steps() and verify(folder.path(4)) is None
    folder.settle(given.strategy)
    assert folder.newest() == folder.path(5)
    folder.restore(folder.path(4), given)
    assert all(torch.equal(before[name], weight) for name, weight in weights(given).items())


def test_what_fails_behind_is_said_once(monkeypatch: pytest.MonkeyPatch, folder: Checkpoints) -> None:
    """By the next one, or at the end; a run that ends by another error does not hear of it."""

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "full")

    given = trained(Lora(rank=2))
    monkeypatch.setattr(checkpoint, "sha256_of", full)
    folder.save(State(step=4), given)
    folder.wait()
    with pytest.raises(StorageError, match=r"checkpoint-4: the disk is full.*takes about 0\.\d MB"):
        folder.save(State(step=5), given)
    monkeypatch.undo()
    save(folder, State(step=5), given)
    assert folder.steps() == [1, 2, 3, 5] and not list(folder.folder.glob(f"{PREFIX}*"))


def test_what_a_killed_process_left_is_no_checkpoint(folder: Checkpoints) -> None:
    (folder.folder / f"{PREFIX}checkpoint-9").mkdir()
    (folder.folder / f"{PREFIX}old-checkpoint-8").mkdir()
    (folder.folder / "checkpoint-final").mkdir()
    assert folder.steps() == [1, 2, 3]
    assert folder.remove_damaged(SingleStrategy(torch.device("cpu"))) == {}
    assert not list(folder.folder.glob(f"{PREFIX}*")) and folder.steps() == [1, 2, 3]
    assert (folder.folder / "checkpoint-final").exists()


def test_a_step_is_saved_once(folder: Checkpoints) -> None:
    before = (folder.path(3) / "manifest.json").read_bytes()
    given = trained(Lora(rank=2))
    take_steps(given, 1)
    save(folder, State(step=3), given)
    assert (folder.path(3) / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 1, [1, 4, 5]), (1, 5, [5]), (9, 2, [1, 2, 3, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, keep: int, best: int | None, kept: list[int]) -> None:
    checkpoints, given = Checkpoints(tmp_path, keep=keep), trained(Lora(rank=1))
    for step in range(1, 6):
        save(checkpoints, State(step=step, best_step=best if best and step >= best else None), given)
    assert checkpoints.steps() == kept


def test_steps_are_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert Checkpoints(tmp_path, keep=1).steps() == [9, 10, 100]


# ---- verified ------------------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILES = ["adapter_model.safetensors", "adapter_config.json", *checkpoint.ALWAYS, checkpoint.MANIFEST]
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": truncate,
    "flipped": flip,
    "missing": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found(folder: Checkpoints, name: str, damage: str) -> None:
    DAMAGES[damage](folder.path(3) / name)
    fault = verify(folder.path(3))
    assert fault is not None and (name in fault or name == checkpoint.MANIFEST)
    assert verify(folder.path(2)) is None and folder.newest() == folder.path(2)
    assert folder.remove_damaged(SingleStrategy(torch.device("cpu"))) == {str(folder.path(3)): fault}
    assert folder.steps() == [1, 2]


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"state.json": "0"}', "7"])
def test_a_manifest_that_lists_too_little(folder: Checkpoints, content: str) -> None:
    (folder.path(3) / "manifest.json").write_text(content)
    assert verify(folder.path(3)) == "manifest.json is not as it was written"


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, folder: Checkpoints) -> None:
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "sha256_of", broken)
    assert str(verify(folder.path(3))).endswith("cannot be read: Input/output error")


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "nothing", keep=1)
    assert checkpoints.steps() == [] and checkpoints.newest() is None
