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
from luthier.errors import UserError

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


def test_a_lost_process_is_started_again(
    stub: Callable[[int, str], int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As often as was said; what ends with a mistake of the user's would end so again."""
    line = "os.kill(os.getpid(), 9) if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and rank == '1' else None"
    assert stub(2, line) == 137
    assert launch(2, [str(tmp_path), line], restarts=1) == 0
    assert capfd.readouterr().err.count("rank 1 was ended by SIGKILL") == 2
    assert launch(1, [str(tmp_path), "sys.exit(2)"], restarts=3) == 2
    assert "starting again" not in capfd.readouterr().err


SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "20007"}
SRUN = SLURM | {"SLURM_STEP_ID": "0", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.5"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (SRUN, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "20007"}),
        (SLURM, {}),
        (SRUN | {"SLURM_NTASKS": "1"}, {}),
        (SRUN | {"RANK": "0"}, {}),
        (MPI | {"MASTER_ADDR": "a"}, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "20000"}),
        ({}, {}),
    ],
    ids=["srun", "a process started by hand", "one process", "torchrun", "mpirun", "alone"],
)
def test_others_that_start_processes_are_recognised(given: dict[str, str], found: dict[str, str]) -> None:
    environment = dict(given)
    launching.recognise(environment)
    assert environment == given | found


def test_mpirun_says_not_where_the_first_is() -> None:
    with pytest.raises(UserError, match="set MASTER_ADDR to the machine of the first of them"):
        launching.recognise(dict(MPI))
