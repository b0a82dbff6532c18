"""Several processes on this machine, which train one model together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_SECONDS = 15.0
"""How long the other processes may take to notice that one has failed, before they are ended."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `luthier ARGUMENTS` in that many processes; returns 0, or the exit status of the first that failed.

    Rank 0 shows the run; every rank's errors are shown. Each process has a group of its own, so that Ctrl-C reaches
    this one only, which asks all of them once to finish their step and save. None outlives a failure of another.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    children: list[subprocess.Popen[bytes]] = []

    def ask_to_stop(*_: object) -> None:
        _signal(children, signal.SIGTERM)

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": threads}
            child = subprocess.Popen(
                [sys.executable, "-m", "luthier", *arguments],
                env={**os.environ, **shared, **own},
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
    while None in (states := [child.poll() for child in children]) and time.monotonic() < deadline:
        if not failed and any(states):
            failed, deadline = next(filter(None, states)), time.monotonic() + GRACE_SECONDS
        time.sleep(0.05)
    failed = failed or next(filter(None, states), 0)
    return 128 - failed if failed < 0 else failed  # ended by a signal, as shells say it


def _signal(children: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
