"""Several processes: one asks all of them to stop, and none outlives the failure of another."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.drive import launch as launching
from luthier.drive.launch import launch

STUB = """
import os, signal, sys, time
rank, folder = os.environ["RANK"], sys.argv[1]
open(f"{folder}/{rank}", "w").write(str(os.getpid()))
exec(sys.argv[2])
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], int]:
    """Launches processes that run a line of Python in place of `luthier`."""
    (tmp_path / "package" / "luthier").mkdir(parents=True)
    (tmp_path / "package" / "luthier" / "__main__.py").write_text(STUB, encoding="utf-8")
    (tmp_path / "package" / "luthier" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    monkeypatch.chdir(tmp_path / "package")
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.5)
    return lambda processes, line: launch(processes, [str(tmp_path), line])


def gone(folder: Path, rank: int) -> bool:
    """Whether the process of a rank is no more."""
    return not Path(f"/proc/{(folder / str(rank)).read_text()}").exists()


@pytest.mark.parametrize(
    ("line", "status"),
    [("pass", 0), ("sys.exit(2)", 2), ("sys.exit(3 if rank == '1' else 0)", 3)],
)
def test_the_exit_status_is_that_of_the_first_failure(stub: Callable[[int, str], int], line: str, status: int) -> None:
    assert stub(2, line) == status


def test_ranks_know_each_other(stub: Callable[[int, str], int], tmp_path: Path) -> None:
    names = "WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
    line = f"open(f'{{folder}}/env{{rank}}', 'w').write(' '.join(os.environ[n] for n in '{names}'.split()))"
    assert stub(2, line) == 0
    first, second = ((tmp_path / f"env{rank}").read_text().split() for rank in (0, 1))
    assert first[:3] == ["2", "0", "127.0.0.1"] and second[1] == "1" and first[3] == second[3]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("end", ["sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_a_failure(stub: Callable[[int, str], int], tmp_path: Path, end: str) -> None:
    started = time.monotonic()
    assert stub(2, f"{end} if rank == '1' else time.sleep(60)") in (1, 137)
    assert time.monotonic() - started < 20
    assert gone(tmp_path, 0) and gone(tmp_path, 1)


def test_one_signal_asks_every_process(stub: Callable[[int, str], int], tmp_path: Path) -> None:
    def interrupt() -> None:
        while not ((tmp_path / "ready0").exists() and (tmp_path / "ready1").exists()):
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    line = (
        "signal.signal(15, lambda *a: (open(f'{folder}/asked{rank}', 'a').write('x'), sys.exit(130)));"
        "open(f'{folder}/ready{rank}', 'w'); time.sleep(60)"
    )
    assert stub(2, line) == 130
    assert [(tmp_path / f"asked{rank}").read_text() for rank in (0, 1)] == ["x", "x"]
