"""Defaults that follow from the machine, and the report of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.system import hardware
from luthier.system.hardware import (
    CPU_TOKENS,
    GPU_TOKENS,
    LIBRARIES,
    MemoryLimit,
    bf16_is_native,
    choose_precision,
    environment,
    held_memory_bytes,
    memory_limit,
    micro_batch_tokens,
    peak_memory_bytes,
    restart_peak_memory,
    share_busy_cores,
)


@pytest.mark.parametrize(
    ("others", "decided", "shares"),
    [(90.0, None, True), (3.0, None, False), (90.0, "OMP_WAIT_POLICY", False), (90.0, "GOMP_SPINCOUNT", False)],
)
def test_busy_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, others: float, decided: str | None, shares: bool
) -> None:
    import psutil

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if decided:
        monkeypatch.setenv(decided, "ACTIVE")
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: others)
    assert share_busy_cores() is shares
    assert (os.environ.get("OMP_WAIT_POLICY") == "PASSIVE") is shares


FREED = """
import os
from luthier.system.hardware import held_memory_bytes, return_freed_memory
import torch
if {asked}:
    return_freed_memory()
torch.ones(7_000_000)  # sizes up to that are kept for others from then on
before = held_memory_bytes()
held = [torch.ones(1_000_000) for _ in range(60)]
held = held[1::2]
print((held_memory_bytes() - before) / sum(tensor.nbytes for tensor in held))
"""


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_freed_goes_back_to_the_system(asked: bool) -> None:
    """Every other tensor is freed: half of the memory is held, and not all of it."""
    code = FREED.format(asked=asked)
    share = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert share < 1.2 if asked else share > 1.8


@pytest.mark.parametrize(
    ("setting", "device", "gpu_has_bf16", "expected"),
    [
        ("auto", "cpu", True, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda", True, "fp16"),
        ("fp32", "cuda", True, "fp32"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, setting: Any, device: str, gpu_has_bf16: bool, expected: str
) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return gpu_has_bf16 or including_emulation  # emulated bf16 is slower than fp32

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision(setting, device) == expected


@pytest.mark.parametrize(
    ("flags", "native"), [("flags : fpu avx512_bf16", True), ("flags : fpu avx2", False), ("", False)]
)
def test_bf16_of_the_cpu(monkeypatch: pytest.MonkeyPatch, flags: str, native: bool) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    assert bf16_is_native("cpu") is native


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [("auto", "cpu", CPU_TOKENS), ("auto", "cuda", GPU_TOKENS), (77, "cpu", 77), (77, "cuda", 77)],
)
def test_micro_batch_tokens(setting: Any, device: str, expected: int) -> None:
    assert micro_batch_tokens(setting, device) == expected


def test_environment() -> None:
    report = environment()
    assert json.loads(json.dumps(report)) == report
    assert set(report["libraries"]) == set(LIBRARIES) and report["libraries"]["torch"] == torch.__version__
    assert report["memory_bytes"] > 2**28 and report["cpu_cores"] >= 1 and report["cpu"]


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "LIBRARIES", ("luthier-of-nobody",))
    assert environment()["libraries"] == {"luthier-of-nobody": None}


def test_peak_memory_is_in_bytes() -> None:
    import psutil

    held = psutil.Process().memory_info().rss
    assert 0.9 * held < peak_memory_bytes() < 100 * held


def test_memory_is_limited_between_operations() -> None:
    """Once; and what stood there before stands there again."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 500, 7)
    looks = 0
    with pytest.raises(MemoryLimit, match="GB are held, more than"), memory_limit(held_memory_bytes() // 2):
        for looks in range(2000):  # noqa: B007
            time.sleep(0.01)
    assert looks < 1000
    with memory_limit(held_memory_bytes() + 10**10):
        time.sleep(0.12)
    own = signal.signal(signal.SIGALRM, before)
    left, every = signal.setitimer(signal.ITIMER_REAL, 0)
    assert callable(own) and own() is None and 400 < left <= 500 and every == 7  # type: ignore[call-arg]


def test_memory_is_not_limited_where_signals_do_not_come() -> None:
    done: list[bool] = []

    def work() -> None:
        with memory_limit(1):
            time.sleep(0.12)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


PEAK = "from luthier.system.hardware import peak_memory_bytes; print(peak_memory_bytes())"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_that_of_this_process() -> None:
    """Not of the one that started it, and since it was last restarted."""
    fat = bytearray(1_500_000_000)
    fat[::4096] = b"x" * len(range(0, len(fat), 4096))
    child = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 1_000_000_000 < peak_memory_bytes()
    del fat
    restart_peak_memory()
    assert peak_memory_bytes() < held_memory_bytes() + 200_000_000


def test_the_room_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of all groups above, of both versions; pages of files do not count."""
    assert hardware.room_bytes() > held_memory_bytes()
    files = {
        "cgroup": "4:memory,x:/job/1\n1:cpu:/job\n0::/a/b",
        "memory/job/1/memory.limit_in_bytes": "9000", "memory/job/1/memory.usage_in_bytes": "2000",
        "memory/job/1/memory.stat": "cache 5\ntotal_inactive_file 700\n",
        "memory.max": "max\n", "memory.current": "1",
        "a/memory.max": "5000\n", "a/memory.current": "2000\n", "a/memory.stat": "inactive_file 500\n",
        "a/b/memory.max": "max\n", "a/b/memory.current": "1000\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "GROUPS", tmp_path)
    monkeypatch.setattr(hardware, "SELF", tmp_path)
    assert hardware._container_room() == [7700, 3500]
    (tmp_path / "cgroup").unlink()
    assert hardware._container_room() == []
    monkeypatch.setattr(hardware, "_container_room", lambda: [1000])
    assert hardware.room_bytes() < held_memory_bytes() + 50_000_000
