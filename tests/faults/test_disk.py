"""A disk that is really full (a small file system of its own): said once, nothing lost, and the run goes on."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.faults.conftest import command

pytestmark = pytest.mark.slow
NAMESPACE = ["unshare", "--mount", "--map-root-user", "--user"]
"""Mounts of this namespace vanish with it; ordinary users may do so where the kernel allows it."""


@pytest.mark.parametrize("together", [[], ["parallel=fsdp", "--devices", "2"]], ids=["one", "fsdp"])
def test_a_full_disk(config: Path, tmp_path: Path, together: list[str]) -> None:
    """Also where each process writes its own pieces."""
    if subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "x", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let its users mount a file system")
    disk, short = tmp_path / "disk", ["train.max_steps=12", "output.keep=99", *together]
    disk.mkdir()
    train = shlex.join(command("train", config, f"output.dir={disk / 'run'}", *short))
    script = f"""
        mount -t tmpfs -o size=400k full {disk}
        {train}; echo "status $?"
        ls -A {disk}/run | tr '\\n' ' '; echo
        mount -o remount,size=100m {disk}
        {train}; echo "status $?"
        ls -A {disk}/run | tr '\\n' ' '; echo
    """
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, check=True)
    first, second = done.stdout.split("status ")[1:]
    assert first.startswith("1"), done.stdout + done.stderr
    assert (
        len(re.findall(r"error( on rank 1)?: could not write", done.stderr)) == 1 and "Traceback" not in done.stderr
    ), done.stderr
    assert "A checkpoint of this run takes about 0." in done.stderr
    assert "the disk is full" in done.stderr and "make room and run the same command again" in done.stderr
    saved = first.splitlines()[1].split()
    assert "checkpoint-2" in saved, "something was saved before the disk was full"
    assert not [name for name in saved if name.startswith(".incomplete-checkpoint")]
    assert "continuing from" in second or "continuing from" in first
    assert second.startswith("0"), done.stderr
    assert "adapter_model.safetensors" in second
