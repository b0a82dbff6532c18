"""Several processes on this machine, by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `luthier ARGUMENTS` in that many processes; returns the exit status.

    The processes share this machine's cores. Ctrl-C and SIGTERM reach all of them, and each finishes its step.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    child = subprocess.Popen([*command, "-m", "luthier", *arguments], env=environment)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, frame: child.send_signal(signal.SIGTERM))
    return child.wait()
