"""The helpers of `native.c`, built on first use with this machine's compiler and kept in Luthier's folder.

Plain C through ctypes: no headers of torch, a few seconds, and one build for each source, set of flags and processor.
Threads are those of torch: the library is linked to the OpenMP library that torch brings, so that there is one pool.
Without a compiler there is no library, and whoever asks uses the plain version.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from luthier.system.files import locked
from luthier.system.hardware import cpu_flags
from luthier.system.home import home

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fno-math-errno", "-Wno-psabi", "-fopenmp")
COMPILERS = ("gcc", "cc")


@cache
def library() -> ctypes.CDLL | None:
    """The built helpers, or None where `reason` says why there are none."""
    return None if reason() else _loaded()[0]


@cache
def reason() -> str | None:
    """Why there are no native helpers here; None: there are."""
    return _loaded()[1]


def state() -> str:
    """One line for reports."""
    return "built" if reason() is None else f"none: {reason()}"


def call(name: str, *arguments: Tensor | float | int) -> None:
    """Run a helper; tensors are contiguous, float32 or int64, and on the CPU. The number of threads is added."""
    found = library()
    assert found is not None, reason()
    for a in arguments:
        if isinstance(a, Tensor) and (a.dtype not in (torch.float32, torch.int64) or not a.is_cpu):
            raise TypeError(f"{name}: {a.dtype} on {a.device}")
        if isinstance(a, Tensor) and a.numel() and not a.data_ptr():
            raise TypeError(f"{name}: a tensor without memory of its own")  # such as one that is still to be received
    given = [
        ctypes.c_void_p(a.data_ptr())
        if isinstance(a, Tensor)
        else ctypes.c_float(a)
        if isinstance(a, float)
        else ctypes.c_long(a)
        for a in arguments
    ]
    found[name](*given, ctypes.c_int(torch.get_num_threads()))


@cache
def lanes() -> int:
    """Numbers of a vector."""
    found = library()
    return int(found.lanes(1)) if found is not None else 1


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None, f"no C compiler ({', '.join(COMPILERS)}) is installed"
    if (threads := _threads()) is None:
        return None, "torch brings no OpenMP library of GNU, and two pools of threads would be in each other's way"
    key = hashlib.sha256(
        b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), cpu_flags().encode(), _version(compiler)])
    ).hexdigest()[:16]
    file = home() / "native" / f"{key}.so"
    try:
        if not file.exists():
            _build(compiler, threads, file)
        return ctypes.CDLL(str(file)), None
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler} could not build {SOURCE.name}: {str(said).strip().splitlines()[0]}"


def _build(compiler: str, threads: Path, file: Path) -> None:
    """Compile into the file, once for all processes of this machine that ask together.

    Linked by a command of its own: with `-fopenmp` the compiler would add its own library besides.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        if file.exists():
            return
        made, target = Path(scratch) / "native.o", Path(scratch) / "native.so"
        for command in (
            [compiler, *FLAGS, "-c", str(SOURCE), "-o", str(made)],
            [compiler, "-shared", str(made), str(threads), "-lm", "-o", str(target)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        target.replace(file)


def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], check=False, capture_output=True, timeout=20).stdout


def _threads() -> Path | None:
    """The OpenMP library that torch has loaded."""
    folder = Path(torch.__file__).with_name("lib")
    return next(iter(sorted(folder.glob("libgomp*.so*"))), None)
