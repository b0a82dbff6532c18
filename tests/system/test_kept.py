"""Databases for all runs, made by several processes at one moment; the rest is in tests/data/test_store.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def test_several_processes_make_one(tmp_path: Path) -> None:
    """A hundred of them, one after the other; what one process may not make, it would have to do without."""
    program = (
        "import time; from pathlib import Path; from luthier.system import kept\n"
        f"here = Path({str(tmp_path)!r}); kept.home = lambda: here\n"
        "(here / f'ready-{time.time_ns()}').touch()\n"
        "while not (here / 'go').exists(): pass\n"
        "for number in range(100):\n"
        "    one = kept.database(str(number), 'CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY)')\n"
        "    one.execute('INSERT INTO row VALUES (NULL)')\n"
    )
    root, command = Path(__file__).parents[2], [sys.executable, "-W", "error", "-c", program]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(6)]
    while len(list(tmp_path.glob("ready-*"))) < 6 and all(one.poll() is None for one in running):
        time.sleep(0.05)
    (tmp_path / "go").touch()
    assert [(one.communicate()[1], one.returncode) for one in running] == [(b"", 0)] * 6
