"""The loss as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from luthier.errors import StorageError
from luthier.system.files import PREFIX
from luthier.tracking.jsonl import JsonlTracker
from luthier.tracking.plot import _smooth, plot_loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    for step in range(1, 9):
        tracker.log(step, {"loss": 3 / step} | ({"held_out_loss": 4 / step} if step % 4 == 0 else {}))
    return tmp_path


@pytest.mark.parametrize("held_out", [True, False])
def test_a_picture(folder: Path, held_out: bool) -> None:
    from matplotlib.image import imread

    file = folder / "metrics.jsonl"
    if not held_out:
        file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "held" not in line))
    assert plot_loss(folder) == folder / "loss.png"
    image = imread(folder / "loss.png")
    assert image.shape[:2] == (480, 840) and image.std() > 0.01, "something is drawn"
    orange = (image[..., 0] > 0.7) & (image[..., 1] < 0.35) & (image[..., 2] < 0.2)
    assert bool(orange.any()) is held_out
    assert sorted(path.name for path in folder.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_nothing_measured_yet(tmp_path: Path) -> None:
    assert plot_loss(tmp_path) is None and not list(tmp_path.iterdir())


def test_the_backend_of_a_notebook_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert plot_loss(folder) is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(folder: Path) -> None:
    (folder / f"{PREFIX}loss.png").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        plot_loss(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl"]


def test_smoothing_begins_at_the_first_value_and_forgets_it() -> None:
    assert _smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    smooth = _smooth([10.0] + [1.0] * 40)
    assert smooth[0] == 10 and 1 < smooth[1] < 10 and smooth[-1] == pytest.approx(1, abs=0.01)
