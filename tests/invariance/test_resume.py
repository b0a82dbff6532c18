"""A resumed run is bit-identical to one that was never interrupted, and nothing else changes the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.errors import Interrupted, OutputError, StorageError
from luthier.factory import Factory, Stages
from luthier.train.observers.base import Observer, Progress
from tests.invariance.conftest import metrics

Train = Callable[..., Path]


class StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, progress: Progress) -> bool:
        return progress.state.step == self.step


class FailAt(StopAt):
    """As a full disk or a crash would: an exception out of the middle of the run."""

    def on_step(self, progress: Progress) -> bool:
        if progress.state.step == self.step:
            raise StorageError("no space")
        return False


def tensors(folder: Path) -> dict[str, str]:
    """sha256 of every saved tensor file, checkpoints included."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


SETTINGS: list[dict[str, Any]] = [
    {"adapter": {"type": "lora", "dropout": 0.1}, "data__packing": True, "train__micro_batch_tokens": 150},
    {"adapter": "full", "data__packing": False, "train__micro_batch_size": 3, "train__learning_rate": 1e-4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["lora-dropout-packed", "full-padded"])
@pytest.mark.parametrize("stop", [StopAt, FailAt])
def test_resumed_equals_uninterrupted(train: Train, tmp_path: Path, settings: dict[str, Any], stop: type) -> None:
    common = settings | {"train__max_steps": 7, "train__save_every": 2, "output__keep": 9}
    whole = train("whole", **common)
    with pytest.raises((Interrupted, StorageError)):
        train("parts", observers=[stop(5)], **common)
    assert not (tmp_path / "parts" / "adapter_model.safetensors").exists()
    parts = train("parts", **common)
    mine = {name: digest for name, digest in tensors(parts).items() if not name.startswith("checkpoint-5")}
    whole_hashes = {name: digest for name, digest in tensors(whole).items() if not name.startswith("checkpoint-5")}
    assert mine == whole_hashes
    for key in ("loss", "grad_norm", "learning_rate", "tokens", "held_out_loss", "epoch"):
        assert metrics(parts, key) == metrics(whole, key)


def test_evaluation_and_saving_do_not_touch_the_run(train: Train) -> None:
    quiet = {"train__evaluate_every": None, "train__save_every": None, "output__final": "last"}
    busy = {"train__evaluate_every": 1, "train__save_every": 1, "output__final": "last"}
    adapter = {"adapter": {"type": "lora", "dropout": 0.1}}
    assert metrics(train("quiet", **quiet, **adapter)) == metrics(train("busy", **busy, **adapter))


def test_the_best_checkpoint_stands_at_the_top(train: Train) -> None:
    folder = train("run", train__max_steps=6, train__evaluate_every=1, train__learning_rate=40.0, output__final="best")
    held = metrics(folder, "held_out_loss")
    best = held.index(min(held)) + 1
    assert best < 6, "the learning rate should have ruined the later steps"
    checkpoint = folder / f"checkpoint-{best}" / "adapter_model.safetensors"
    assert (folder / "adapter_model.safetensors").read_bytes() == checkpoint.read_bytes()
    assert json.loads((folder / "metrics.json").read_text())["final_step"] == best


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "flipped": flip,
    "missing": Path.unlink,
}


class Listen(Stages):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said += [text] if text.startswith("warning") else []


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("settings", SETTINGS, ids=["lora", "full"])
def test_a_damaged_checkpoint_is_not_used(
    train: Train, run_config: Any, tmp_path: Path, settings: dict[str, Any], damage: str
) -> None:
    """Whichever of its files it is: the one before is used, which is said, and the run ends with the same bytes."""
    common = settings | {"train__max_steps": 5, "train__save_every": 2, "output__keep": 9, "data__held_out": 0.0}
    whole = train("whole", **common)
    with pytest.raises(Interrupted):
        train("parts", observers=[StopAt(4)], **common)
    checkpoint = tmp_path / "parts" / "checkpoint-4"
    names = sorted(str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file())
    assert {"state.json", "optimizer.safetensors", "random.safetensors", "manifest.json", "tokenizer.json"} < {*names}
    for name in names:
        folder = Path(shutil.copytree(tmp_path / "parts", tmp_path / "damaged" / name))
        DAMAGES[damage](folder / "checkpoint-4" / name)
        listen = Listen()
        Factory().fine_tune(run_config(output__dir=str(folder), **common), stages=listen)
        (said,) = listen.said
        assert "checkpoint-4 is damaged" in said and "was removed" in said and name in said
        assert tensors(folder) == tensors(whole), name


def test_without_any_good_checkpoint_the_run_begins_anew(train: Train, run_config: Any, tmp_path: Path) -> None:
    common = {"train__max_steps": 5, "train__save_every": 2, "output__keep": 9}
    whole = train("whole", **common)
    with pytest.raises(Interrupted):
        train("parts", observers=[StopAt(4)], **common)
    checkpoints = list((tmp_path / "parts").glob("checkpoint-*"))
    for checkpoint in checkpoints:
        flip(checkpoint / "optimizer.safetensors")
    listen = Listen()
    Factory().fine_tune(run_config(output__dir=str(tmp_path / "parts"), **common), stages=listen)
    assert len(listen.said) == len(checkpoints) > 1
    assert tensors(tmp_path / "parts") == tensors(whole) and metrics(tmp_path / "parts") == metrics(whole)


@pytest.mark.slow
def test_killed_before_its_first_step_a_run_begins_again(
    train: Train, run_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever had been written of the folder by then; also with --restart, half of the old run's files being gone."""
    from luthier.tracking import run as module

    whole, states = train("whole"), list[Path]()
    write, gone = module.write_text, shutil.rmtree  # type: ignore[attr-defined]

    def keep(folder: Path) -> None:
        states.append(Path(shutil.copytree(folder, tmp_path / f"state{len(states)}")))

    def watched(path: Path, text: str) -> None:
        write(path, text)
        keep(path.parent)

    def removed(path: Path) -> None:
        gone(path)
        keep(path.parent)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", watched)
        train("first")
        patch.setattr(module, "shutil", SimpleNamespace(rmtree=removed))
        Factory().fine_tune(run_config(output__dir=str(tmp_path / "first")), restart=True)
    finished = [bool(json.loads((state / "run.json").read_text())["finished"]) for state in states]
    assert finished.count(False) >= 8 and finished.count(True) >= 3
    for state, restart in zip(states, finished, strict=True):
        Factory().fine_tune(run_config(output__dir=str(state)), restart=restart)
        assert {"config.yaml", "environment.json", "rows.json"} <= {path.name for path in state.iterdir()}
        assert tensors(state) == tensors(whole)


def test_changes_that_are_allowed_are_written_down(tmp_path: Path, run_config: Callable[..., Any]) -> None:
    """The run goes on from where it was; its records say what it is now, and what it was."""
    import luthier

    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(run_config(), observers=[StopAt(2)])
    config = run_config(train__learning_rate=0.002)
    luthier.Factory().fine_tune(config, allow_changes=True)
    folder = Path(config.output.dir)
    record = json.loads((folder / "run.json").read_text())
    assert record["changes"] == ["train.learning_rate: 0.001 -> 0.002"] and record["finished"]
    assert "learning_rate: 0.002" in (folder / "config.yaml").read_text()
    rates = metrics(folder, "learning_rate")
    assert rates[0] == 0.001 and rates[2] == pytest.approx(2 * 0.0005)  # half of the peak, in the middle of a cosine


def test_a_changed_config_or_changed_data_is_refused(train: Train, tmp_path: Path) -> None:
    from tests.conftest import chat_rows

    with pytest.raises(Interrupted):
        train("run", observers=[StopAt(2)])
    with pytest.raises(OutputError, match=r"train\.learning_rate: 0\.001 -> 0\.002"):
        train("run", train__learning_rate=0.002)
    with pytest.raises(OutputError, match="other rows"):
        train("run", rows=chat_rows(25))
    train("run", train__save_every=1)  # what changes neither weights nor order may change
    with pytest.raises(OutputError, match="finished run"):
        train("run")
