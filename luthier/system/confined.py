"""Code that may do anything, in a process of its own that the system ends where it takes too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from typing import Any


def confined(package: str, script: str, asked: Mapping[str, Any], *, seconds: float) -> tuple[int, str, str] | None:
    """Run one of our scripts, which limits itself, on what it reads as JSON; in an empty folder, with no variables.

    Returns its status, output and errors, or None where it did not end in time. What it has started ends with it.
    """
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with as_file(files(package).joinpath(script)) as code, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", str(code)]
        with subprocess.Popen(command, **pipes, text=True, cwd=folder, env={}, start_new_session=True) as running:
            try:
                output, errors = running.communicate(json.dumps(asked), timeout=seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
            return running.returncode, output, errors
