"""Facts about this machine that decide defaults, and the environment report of a run."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from luthier.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]

LIBRARIES = ("luthier", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pydantic", "sacrebleu")
BUSY_SECONDS, BUSY_PERCENT = 0.3, 20.0
"""How long the use of all cores is watched, and from what share on others are at work here."""
GROUPS, SELF = Path("/sys/fs/cgroup"), Path("/proc/self")
"""Where Linux keeps the limits of groups of processes, and what it knows of this one."""
LOOK_SECONDS = 0.05
"""How often memory is looked at where it is limited."""
CPU_TOKENS, GPU_TOKENS = 512, 8192
"""Tokens of one forward pass by default: past 512 a CPU gains no speed, only memory use."""


def choose_precision(setting: Precision | Literal["auto"], device_type: str) -> Precision:
    """The arithmetic to train in.

    `auto` is bf16 on GPUs that have it natively. On CPUs it is fp32 even where bf16 is native: mixed precision was
    measured at 1.0-1.1 times the speed there (weights are cast again in every layer) for gradients 3 % off.

    Raises:
        UserError: fp16 without a GPU.
    """
    if setting == "fp16" and device_type != "cuda":
        raise UserError(
            "train.precision: fp16 needs a GPU: CPUs multiply fp16 matrices at about a 300th of the speed of fp32 "
            "(measured: 1 against 260 to 327 GFLOP/s); write fp32 or auto"
        )
    if setting != "auto":
        return setting
    if device_type != "cuda":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def bf16_is_native(device_type: str) -> bool:
    """Whether bf16 arithmetic has instructions of its own here; without them it is slower than fp32."""
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "bf16" in cpu_flags()


def micro_batch_tokens(setting: int | Literal["auto"], device_type: str) -> int:
    """The most tokens in one forward pass."""
    return setting if setting != "auto" else GPU_TOKENS if device_type == "cuda" else CPU_TOKENS


def share_busy_cores() -> bool:
    """Let waiting threads sleep where other programs use this machine; true where that was done.

    torch's threads wait for each other by spinning. That is 1.3 times as fast on an idle machine, but one other busy
    program makes them wait for whole slices of the scheduler: measured at a sixteenth of the speed, against a half when
    they sleep. It is read when torch is first imported, so it must be called before.
    """
    import psutil

    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():  # somebody has decided
        return False
    busy = psutil.cpu_percent(interval=BUSY_SECONDS) > BUSY_PERCENT
    if busy:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return busy


def return_freed_memory() -> None:
    """Let the C library give tensors back to the system when they are freed.

    It would keep up to 32 MB of each for smaller ones, and what training takes would be what it has ever taken in
    pieces: for the model of benchmarks.scaling 1.1 times as much in one process, 1.5 times in one of two under fsdp.
    """
    if sys.platform != "linux" or {"MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"} & os.environ.keys():  # somebody has decided
        return
    with suppress(OSError, AttributeError):  # not the C library of GNU
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in ((_MMAP_THRESHOLD, 1 << 18), (_TRIM_THRESHOLD, 1 << 20)):
            mallopt(option, size)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of malloc.h."""


def cpu_flags() -> str:
    """What this processor has, as Linux names it; empty elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


# ---- memory: of the GPU where there is one, else what of this process is resident -----------------------------------


def held_memory_bytes() -> int:
    """What this process holds now."""
    import psutil
    import torch

    return int(torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss)


def peak_memory_bytes() -> int:
    """The most that this process has held."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    for line in _text(SELF / "status").splitlines():
        if line.startswith("VmHWM:"):  # what Linux says of resources counts the process that started this one too
            return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak_memory() -> None:
    """Let the peak be what is held now; only Linux and GPUs can do that."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        (SELF / "clear_refs").write_text("5", encoding="ascii")


def room_bytes() -> int:
    """What this process may hold: what it does, and what is free on the GPU, the machine, and in its container."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return held_memory_bytes() + int(torch.cuda.mem_get_info()[0])
    return held_memory_bytes() + min([int(psutil.virtual_memory().available), *_container_room()])


def _container_room() -> list[int]:
    """What is left of the limits that Linux sets for groups of processes, this one's and those above it.

    Pages of files that nobody works with count as used, and are given back when memory is needed.
    """
    found = []
    for line in _text(SELF / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        root = GROUPS / "memory" if version_1 else GROUPS
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, usage, pages = names if version_1 else ("memory.max", "memory.current", "inactive_file")
        place = PurePosixPath(path).relative_to("/")
        for group in (root / place, *(root / above for above in place.parents)):
            most, used = _text(group / limit), _text(group / usage)
            stat = dict(line.split()[:2] for line in _text(group / "memory.stat").splitlines())
            if most.isdigit() and used.isdigit():
                found.append(int(most) - int(used) + int(stat.get(pages, 0)))
    return found


def _text(path: Path) -> str:
    """What a file of the system says, stripped; nothing where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


class MemoryLimit(MemoryError):
    """More is held than `memory_limit` allows; raised once."""


@contextmanager
def memory_limit(most_bytes: int) -> Iterator[None]:
    """Raise MemoryLimit as soon as this process holds more, before the system ends a process that it chooses.

    It is looked at between the operations of the main thread; elsewhere, and on systems without timers, nothing is.
    """
    import threading

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def look(*_: object) -> None:
        if (holds := held_memory_bytes()) > most_bytes:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise MemoryLimit(f"{holds / 1e9:.2f} GB are held, more than {most_bytes / 1e9:.2f} GB")

    before = signal.signal(signal.SIGALRM, look)
    timer = signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # of whoever had one


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory does not suffice, on a GPU or for the CPU's allocator."""
    import torch

    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)
    )


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")


def free_memory(device: Any) -> None:
    """Give back what no tensor holds any more."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def environment() -> dict[str, Any]:
    """Machine, interpreter and library versions, as `environment.json` and `luthier doctor` show them."""
    import psutil
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_bf16": "bf16" in cpu_flags(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
