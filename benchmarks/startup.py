"""How long a command takes that needs no torch: `python -m benchmarks.startup`.

Medians of runs in turn with a bare interpreter (`python -c pass`).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, print_table

REPEATS = 7
WRONG = "model: x\ndata: {train: [x.jsonl]}\noutput: runs/x\ntrain: {lerning_rate: 1}\n"


def seconds(*arguments: str) -> float:
    """The time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        wrong = Path(scratch) / "wrong.yaml"
        wrong.write_text(WRONG, encoding="utf-8")
        commands = {
            "python -c pass": ("-c", "pass"),
            "luthier --help": ("-m", "luthier", "--help"),
            "luthier train wrong.yaml": ("-m", "luthier", "train", str(wrong)),
            "luthier plugins": ("-m", "luthier", "plugins"),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(REPEATS):
            for name, arguments in commands.items():
                times[name].append(seconds(*arguments))
    bare = statistics.median(times["python -c pass"])
    rows = [(name, statistics.median(t), statistics.median(t) - bare) for name, t in times.items()]
    print_table(("command", "seconds", "over a bare interpreter"), rows)


if __name__ == "__main__":
    main()
