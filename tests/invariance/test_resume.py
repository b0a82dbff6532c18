"""A resumed run is bit-identical to one that was never interrupted, and nothing else changes the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import Interrupted, OutputError, StorageError
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
    folder = train("run", train__max_steps=6, train__evaluate_every=1, train__learning_rate=20.0, output__final="best")
    held = metrics(folder, "held_out_loss")
    best = held.index(min(held)) + 1
    assert best < 6, "the learning rate should have ruined the later steps"
    checkpoint = folder / f"checkpoint-{best}" / "adapter_model.safetensors"
    assert (folder / "adapter_model.safetensors").read_bytes() == checkpoint.read_bytes()
    assert json.loads((folder / "metrics.json").read_text())["final_step"] == best


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_not_used(train: Train, tmp_path: Path, damage: str) -> None:
    common = {"train__max_steps": 6, "train__save_every": 2, "output__keep": 9}
    whole = train("whole", **common)
    with pytest.raises(Interrupted):
        train("parts", observers=[StopAt(4)], **common)
    victim = (
        tmp_path / "parts" / "checkpoint-4" / ("manifest.json" if damage == "manifest" else "optimizer.safetensors")
    )
    content = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        victim.write_bytes(content)
    else:
        victim.write_bytes(content[: len(content) // 2])
    parts = train("parts", **common)
    assert tensors(parts) == tensors(whole)


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
