"""Metrics for TensorBoard, read back by TensorBoard itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from luthier.errors import MissingExtra
from luthier.tracking.tensorboard import TensorBoard


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def write(folder: Path, steps: range, value: float, *, rewind: int) -> None:
    tracker = TensorBoard().open(folder)
    tracker.rewind(rewind)
    for step in steps:
        tracker.log(step, {"loss": value, "tokens": 100 * step})
    tracker.close()


def test_scalars(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4), 0.5, rewind=0)
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(tmp_path, "tokens") == [(1, 100), (2, 200), (3, 300)]


def test_a_resumed_run_hides_the_steps_it_does_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6), 0.5, rewind=0)
    for file in (tmp_path / "tensorboard").iterdir():  # the file of an earlier second
        number = re.search(r"\.(\d{10})\.", file.name)
        assert number is not None
        file.rename(file.with_name(file.name.replace(number[1], str(int(number[1]) - 60))))
    write(tmp_path, range(4, 7), 0.25, rewind=3)
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25), (6, 0.25)]


def test_nothing_was_logged(tmp_path: Path) -> None:
    TensorBoard().open(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        MissingExtra, match=re.escape("output.trackers: tensorboard needs tensorboard, which is not")
    ) as e:
        TensorBoard().open(tmp_path)
    assert str(e.value).endswith("pip install 'luthier[tensorboard]'") and e.value.exit_status == 2
