"""Commands in processes of their own: in turn, stopped, and known for what they are after they are lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from luthier.drive import jobs
from luthier.errors import UserError


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


def until(said: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not said():
        assert time.monotonic() - started < 90, [(one.name, one.status, one.log) for one in jobs.jobs()]
        time.sleep(0.05)


def waiting(tmp_path: Path) -> list[str]:
    """A command that takes as long as it is let: it reads a pipe."""
    if not (tmp_path / "pipe.yaml").exists():
        os.mkfifo(tmp_path / "pipe.yaml")
    return ["train", str(tmp_path / "pipe.yaml")]


def test_one_after_the_other(tmp_path: Path) -> None:
    first = jobs.submit(waiting(tmp_path), about="a wait / with odd words")
    second = jobs.submit(["plugins", "metric"], about="parts", folder=tmp_path)
    beside = jobs.submit(["plugins", "metric"], about="parts", queued=False)
    until(lambda: first.status == "running" and beside.status == "finished")
    assert (first.name, second.status) == ("000001-a-wait---with-odd-words", "waiting")
    assert "exact_match" in beside.log and [one.name for one in jobs.jobs()] == sorted(one.name for one in jobs.jobs())
    first.stop()
    until(lambda: second.status == "finished")
    assert first.status in ("stopped", "failed") and "exact_match" in second.log
    assert second.working_folder == str(tmp_path) and jobs.job(second.name) == second


def test_one_that_waits_does_not_begin(tmp_path: Path) -> None:
    first, second = jobs.submit(waiting(tmp_path), about="one"), jobs.submit(["plugins"], about="two")
    until(lambda: first.status == "running")
    second.stop()
    until(lambda: second.status == "stopped")
    assert second.log == ""
    first.stop()
    until(lambda: first.status not in jobs.LIVE)


def test_one_that_fails_says_why() -> None:
    failed = jobs.submit(["train", "nothing.yaml"], about="fails")
    until(lambda: failed.status == "failed")
    assert "no such file" in failed.log


def test_one_whose_process_is_killed_is_lost(tmp_path: Path) -> None:
    """And not before its command has ended as well, which goes on and is stopped by the same word."""
    job = jobs.submit(waiting(tmp_path), about="lost")
    until(lambda: job.status == "running")
    worker = int((job.folder / "alive").read_text())
    until(lambda: bool(psutil.Process(worker).children()))
    (command,) = psutil.Process(worker).children()
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)
    assert job.status == "running" and command.is_running()
    job.stop()
    until(lambda: job.status == "lost")


def test_a_name_that_no_job_has() -> None:
    with pytest.raises(UserError, match="no job 'x'"):
        jobs.job("x")
