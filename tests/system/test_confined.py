"""Code in a process of its own: what it is told and says, and how it is ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from luthier.system import confined as room
from luthier.system.confined import confined


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in a package of the test's own."""
    monkeypatch.setattr(room, "files", lambda package: tmp_path)
    return tmp_path / "script.py"


def test_it_is_told_and_says(script: Path) -> None:
    script.write_text(
        "import json, os, sys\nasked = json.load(sys.stdin)\n"
        "print(asked['a'], os.listdir(), sorted(os.environ.keys() - {'LC_CTYPE'}))\nsys.stderr.write('no')\nsys.exit(3)"
    )
    assert confined("x", "script.py", {"a": "é"}, seconds=20) == (3, "é [] []\n", "no")


def test_it_is_ended_with_what_it_has_started(script: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    later = f"import pathlib, time; time.sleep(2); pathlib.Path({str(mark)!r}).touch()"
    script.write_text(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {later!r}])\ntime.sleep(60)"
    )
    started = time.monotonic()
    assert confined("x", "script.py", {}, seconds=1) is None and time.monotonic() - started < 10
    time.sleep(3)
    assert not mark.exists()
