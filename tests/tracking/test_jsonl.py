"""Metrics as JSON Lines: complete lines, and nothing of steps that will be done again."""

from __future__ import annotations

import json
import time
from array import array
from pathlib import Path

import pytest

from luthier.errors import StorageError
from luthier.tracking.jsonl import FILE, Follower, Jsonl, read_metrics


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tracker = Jsonl().open(tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1 / step, "held_out_loss": 2.0} if step == 2 else {"loss": 1 / step})
    tracker.close()
    return tmp_path / FILE


def test_one_object_a_step(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5, "held_out_loss": 2.0},
        {"step": 3, "loss": 1 / 3},
    ]
    assert read_metrics(file) == rows, "floats survive exactly"


@pytest.mark.parametrize(("to", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_rewind_drops_later_steps(file: Path, to: int, kept: list[int]) -> None:
    tracker = Jsonl().open(file.parent)
    tracker.rewind(to)
    assert steps(file) == kept
    tracker.log(to + 1, {"loss": 9.0})
    assert steps(file) == [*kept, to + 1] and file.read_text().endswith("}\n")


@pytest.mark.parametrize("cut", ['{"step": 4, "lo', "{", '{"step": 4, "loss": 1.0', "\0\0\0"])
def test_rewind_drops_a_line_that_was_cut_off(file: Path, cut: str) -> None:
    file.write_text(file.read_text() + cut)
    assert steps(file) == [1, 2, 3]
    tracker = Jsonl().open(file.parent)
    tracker.rewind(5)
    tracker.log(6, {})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 6]


def test_nothing_to_rewind(tmp_path: Path) -> None:
    Jsonl().open(tmp_path).rewind(3)
    assert not list(tmp_path.iterdir()) and read_metrics(tmp_path / FILE) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        Jsonl().open(tmp_path).log(1, {"loss": 1.0})


def test_a_reader_follows(file: Path) -> None:
    """What is new is read, half a line is waited for, and a file that was written anew is read anew."""
    follower, tracker = Follower(file), Jsonl().open(file.parent)
    assert follower.look()["held_out_loss"] == (array("d", [2]), array("d", [2.0]))
    with file.open("a", encoding="utf-8") as more:
        more.write('{"step": 4, "loss": 0.25, "seconds": 2.0, "note": "x"}\n{"step": 5, "lo')
    assert [*follower.look()["loss"][1]] == [1.0, 0.5, 1 / 3, 0.25] and "note" not in follower.look()
    assert [row["step"] for row in follower.recent] == [4]
    tracker.rewind(2)
    assert [*follower.look()["loss"][0]] == [1, 2] and not follower.recent
    file.unlink()
    assert Follower(file).look() == {}


def test_a_long_run_is_followed_in_no_time(tmp_path: Path) -> None:
    """A step of 100,000 costs what it costs, not what the steps before it cost."""
    row = {"loss": 1.0, "learning_rate": 1e-4, "grad_norm": 0.5, "seconds": 1.0}
    (tmp_path / FILE).write_text("".join(f"{json.dumps({'step': step} | row)}\n" for step in range(100_000)))
    follower, tracker = Follower(tmp_path / FILE), Jsonl().open(tmp_path)
    first = look(follower)
    tracker.log(100_000, row)
    assert look(follower) < first / 5 and follower.look()["loss"][0][-1] == 100_000


def look(follower: Follower) -> float:
    began = time.process_time()
    follower.look()
    return time.process_time() - began
