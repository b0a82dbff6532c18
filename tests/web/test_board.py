"""What the board knows of its folder, and what it writes there: no job of another folder, no config twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")
import gradio as gr

from luthier.drive import jobs
from luthier.system.variables import BOARD, KEY
from luthier.web import board as rooms
from luthier.web import runs, train
from luthier.web.board import Board
from luthier.web.texts import Speaker

TEXT = "model: m\ndata: {{train: [data/a.csv]}}\noutput: {}\n"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board whose jobs are only written down, as `ended` says that they ended."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    (tmp_path / "folder" / "data").mkdir(parents=True)
    given: list[dict[str, str]] = []

    def start(command: list[str], env: dict[str, str], **_: object) -> None:
        given.append({key: env[key] for key in (BOARD, KEY) if key in env})
        ended(jobs.Job(Path(command[-1])))

    monkeypatch.setattr("subprocess.Popen", start)
    found = Board(tmp_path / "folder", None, Speaker("en"))
    monkeypatch.setattr(rooms, "given", given, raising=False)
    return found


def ended(job: jobs.Job, status: str = "0") -> None:
    (job.folder / "exit.txt").write_text(status, encoding="utf-8")


def config(board: Board, job: str) -> str:
    return (board.folder / jobs.job(job).arguments[1]).read_text(encoding="utf-8")


def test_jobs_of_other_folders_are_theirs(board: Board, tmp_path: Path) -> None:
    other = jobs.submit(["train", "x.yaml"], about="other", folder=tmp_path)
    own = board.start(["doctor"], "doctor")
    assert [one.name for one in board.jobs()] == [own] and board.job(other.name) is None
    assert rooms.looked(board, other.name)[0] == "" and "doctor: finished" in rooms.looked(board, own)[0]
    with pytest.raises(gr.Error):
        train.go_on(board, other.name)


@pytest.mark.parametrize("words", [["check", "data/dropped.txt"], ["plan", "data/dropped.txt"],
                                   ["evaluate", "--harness", "data/dropped.yaml", "m"]])  # fmt: skip
def test_a_dropped_config_leads_nowhere(board: Board, words: list[str]) -> None:
    """A file that is given to a command may itself name any file of the machine."""
    for name in ("dropped.txt", "dropped.yaml"):
        (board.folder / "data" / name).write_text("model: m\ndata: {train: [/etc/passwd]}\noutput: x\n")
    with pytest.raises(gr.Error, match="leads out of"):
        board.start(words, "check")
    for name in ("dropped.txt", "dropped.yaml"):
        (board.folder / "data" / name).write_text(TEXT.format("runs/x"))
    assert board.start(words, "check")


def test_a_secret_is_not_written_down(board: Board, tmp_path: Path) -> None:
    name = board.start(["deploy", "m"], "deploy", secret={KEY: "lk-123"})
    assert rooms.given == [{BOARD: str(board.folder), KEY: "lk-123"}]  # type: ignore[attr-defined]
    assert all("lk-123" not in file.read_text() for file in jobs.job(name).folder.iterdir() if file.is_file())


def test_what_was_trained_with_stays(board: Board) -> None:
    """A check writes over a check; a config of a training, or one written by hand, is never written over."""
    first = train.run_config(board, "train", TEXT.format("runs/a/x"), queued=True)
    check = train.run_config(board, "check", TEXT.format("runs/b/x"), queued=False)
    again = train.run_config(board, "check", TEXT.format("runs/c/x"), queued=False)
    assert [jobs.job(one).arguments[1] for one in (first, check, again)] == [
        "configs/x.yaml", "configs/x-2.yaml", "configs/x-2.yaml",
    ]  # fmt: skip
    assert config(board, first) == TEXT.format("runs/a/x") and config(board, again) == TEXT.format("runs/c/x")
    (board.folder / "configs" / "own.yaml").write_text("# by hand", encoding="utf-8")
    own = train.run_config(board, "check", TEXT.format("runs/own"), queued=False)
    assert jobs.job(own).arguments[1] == "configs/own-2.yaml"


def test_go_on_or_do_it_again(board: Board) -> None:
    """What was stopped goes on with its own config; what is done is done again elsewhere."""
    done = train.run_config(board, "train", TEXT.format("runs/x"), queued=True)
    (board.folder / "runs" / "x").mkdir(parents=True)
    again = train.go_on(board, done)
    assert "runs/x-2" in config(board, again) and config(board, done) == TEXT.format("runs/x")
    ended(jobs.job(done), "-15")
    assert jobs.job(train.go_on(board, done)).arguments == jobs.job(done).arguments


@pytest.mark.parametrize("text", ["model: m", TEXT.format("../x"), "model: /etc\ndata: {train: [a]}\noutput: x"])
def test_what_cannot_be_run_is_not_written(board: Board, text: str) -> None:
    with pytest.raises(gr.Error):
        train.run_config(board, "train", text, queued=True)
    assert not (board.folder / "configs").exists() and board.jobs() == []


def test_runs_at_any_depth(board: Board) -> None:
    for name in ("first", "runs/second", "runs/a/third"):
        (board.folder / name).mkdir(parents=True)
        (board.folder / name / "run.json").write_text("{}", encoding="utf-8")
    assert board.runs() == ["first", "runs/a/third", "runs/second"]
    assert rooms.suggestions(board, "model")[:3] == board.runs()


def test_rows_are_suggested_and_no_reports(board: Board) -> None:
    """The newest first; of a cleaned folder its rows alone."""
    for number, name in enumerate(
        ("a.csv", "clean/rows.jsonl", "clean/ledger.jsonl", "clean/report.md", "counted.png")
    ):
        file = board.folder / "data" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (number, number))
    assert rooms.suggestions(board, "source") == ["data/clean/rows.jsonl", "data/a.csv"]


def test_what_sets_runs_apart(board: Board) -> None:
    """Their losses in one picture, and the settings in which they differ."""
    for name, rate in (("a", 1e-3), ("b", 2e-3)):
        folder = board.folder / "runs" / name
        folder.mkdir(parents=True)
        record = {"finished": True, "data": "", "config": {"train": {"learning_rate": rate, "epochs": 1}}}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    page = runs._compared(board, ["runs/a", "runs/b"])
    assert page.count("<polyline") == 2 and "runs/b: train.learning_rate: 0.001 -&gt; 0.002" in page
    assert "epochs" not in page and "<polyline" not in runs._compared(board, [])


def test_a_run_of_100_000_steps_is_looked_at_each_second(board: Board) -> None:
    """Output, pace and curves of one that still trains, after the first look at it."""
    job = jobs.job(train.run_config(board, "train", TEXT.format("runs/x"), queued=True))
    (job.folder / "started").touch()
    run = board.folder / "runs" / "x"
    run.mkdir(parents=True)
    row = {"loss": 1.0, "learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 9.0, "tokens": 9, "seconds": 1.0}
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"step": step, "epoch": step / 1e5} | row) + "\n" for step in range(1, 100_001))
    (job.folder / "log.txt").write_text("step\n" * 100_000, encoding="utf-8")
    rooms.curves_of(board, job)
    began = time.process_time()
    page = rooms.curves_of(board, job) + rooms.looked(board, job.name)[0]
    assert time.process_time() - began < rooms.LOOK_SECONDS and page.count("<polyline") == 4
    assert len(page) < 1_000_000
