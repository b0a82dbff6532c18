"""Several processes, on this machine or on many, which train one model together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import MutableMapping, Sequence

from luthier.errors import Interrupted, UserError

GRACE_SECONDS = 15.0
"""How long the other processes may take to notice that one has failed, before they are ended."""
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""How often the processes were started again, as torchrun says it."""
FINAL = (0, UserError.exit_status, Interrupted.exit_status)
"""What a run ends with that would end so again."""
NAMES = {
    "RANK": ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK"),
    "WORLD_SIZE": ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"),
    "LOCAL_RANK": ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
"""What others call what torchrun says."""


def recognise(environment: MutableMapping[str, str] = os.environ) -> None:
    """Say in torchrun's names that srun or mpirun has started this process as one of several.

    `accelerate launch` uses torchrun's names itself. A job of Slurm that starts one process by hand is left alone.

    Raises:
        UserError: mpirun says nowhere where the first process is.
    """
    if "RANK" in environment:
        return
    for place, marker in enumerate(("SLURM_STEP_ID", "OMPI_COMM_WORLD_SIZE")):
        found = {name: environment.get(theirs[place]) for name, theirs in NAMES.items()}
        if marker not in environment or None in found.values() or found["WORLD_SIZE"] == "1":
            continue
        environment.update({name: value for name, value in found.items() if value})
        if "MASTER_ADDR" not in environment and "SLURM_LAUNCH_NODE_IPADDR" not in environment:
            raise UserError("several processes were started; set MASTER_ADDR to the machine of the first of them")
        environment.setdefault("MASTER_ADDR", environment.get("SLURM_LAUNCH_NODE_IPADDR", ""))
        environment.setdefault("MASTER_PORT", str(20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000))
        return


def launch(processes: int, arguments: Sequence[str], *, restarts: int = 0) -> int:
    """Run `luthier ARGUMENTS` in that many processes; returns 0, or the exit status of the first that failed.

    Rank 0 shows the run; every rank's errors are shown. Each process has a group of its own, so that Ctrl-C reaches
    this one only, which asks all of them once to finish their step and save. None outlives a failure of another. So
    often as said, all are started again where one was lost, and go on from the last checkpoint.
    """
    status = _once(processes, arguments, 0)
    for attempt in range(1, restarts + 1):
        if status in FINAL:
            break
        print(f"a process has ended with {status}; starting again ({attempt} of {restarts})", file=sys.stderr)
        status = _once(processes, arguments, attempt)
    return status


def join(nodes: int, rendezvous: str, processes: int, arguments: Sequence[str], *, restarts: int = 0) -> int:
    """As `launch`, on this one of several machines that meet at HOST:PORT, by torchrun.

    Each machine is given the same command. Where a process is lost, all machines start theirs again.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="luthier",
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous,
        max_restarts=restarts,
    )
    os.environ.setdefault("OMP_NUM_THREADS", _threads(processes))
    try:
        elastic_launch(settings, sys.executable)("-m", "luthier", *arguments)
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    return 0


def _threads(processes: int) -> str:
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))


def _once(processes: int, arguments: Sequence[str], attempt: int) -> int:
    """Start them and wait for the end."""
    shared = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": _threads(processes), ATTEMPT: str(attempt),
    }  # fmt: skip
    children: list[subprocess.Popen[bytes]] = []

    def ask_to_stop(*_: object) -> None:
        _signal(children, signal.SIGTERM)

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            child = subprocess.Popen(
                [sys.executable, "-m", "luthier", *arguments],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=None if rank == 0 else subprocess.DEVNULL,
                process_group=0,
            )
            children.append(child)
        return _wait(children)
    finally:
        _signal(children, signal.SIGKILL)
        for child in children:
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all are done, or one has failed and the grace is over."""
    failed, deadline = 0, float("inf")
    while True:
        states = [child.poll() for child in children]
        if not failed and any(states):
            failed, deadline = next(filter(None, states)), time.monotonic() + GRACE_SECONDS
            if failed < 0:  # it could not say so itself
                print(f"rank {states.index(failed)} was ended by {signal.Signals(-failed).name}", file=sys.stderr)
        if None not in states or time.monotonic() >= deadline:
            return 128 - failed if failed < 0 else failed  # ended by a signal, as shells say it
        time.sleep(0.05)


def _signal(children: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def free_port() -> int:
    """One that nobody listens at, just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
