"""How the native helpers are built, kept and done without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.kernels import native
from luthier.system.home import home

needed = pytest.mark.skipif(native.reason() is not None, reason="no compiler")

ONE = "from luthier.kernels import native; print(native.reason(), native.lanes())"


def alone(code: str, home: Path, path: str | None = None) -> str:
    import os

    environment = os.environ | {"LUTHIER_HOME": str(home)} | ({} if path is None else {"PATH": path})
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


@needed
def test_it_is_built_once(tmp_path: Path) -> None:
    assert alone(ONE, tmp_path).startswith("None ")
    (built,) = (tmp_path / "native").glob("*.so")
    before = built.stat().st_mtime_ns
    assert alone(ONE, tmp_path).startswith("None ") and built.stat().st_mtime_ns == before


def test_without_a_compiler_it_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    assert alone(ONE, tmp_path, str(empty)) == "no C compiler (gcc, cc) is installed 1\n"
    assert not (tmp_path / "native").exists()


def test_a_compiler_that_fails_is_said(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "gcc"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such header\\nand more')\n")
    fake.chmod(0o755)
    said = alone(ONE, tmp_path, str(fake.parent))
    assert said == f"{fake} could not build native.c: no such header 1\n"


@needed
def test_one_pool_of_threads() -> None:
    """The helpers use the OpenMP library that torch has loaded, and no other is loaded beside it."""
    maps = "print({line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line})"
    loaded = alone(f"{ONE}; {maps}", home()).splitlines()[1]
    assert loaded.count(".so") == 1 and "/torch/" in loaded


@needed
def test_what_is_not_as_they_take_it_is_refused() -> None:
    """Before it is read or written as if it were."""
    right = torch.zeros(8)
    for wrong in (right.half(), right.double(), right.to("meta")):
        with pytest.raises(TypeError, match="gated: torch"):
            native.call("gated", right, right, wrong, 8, 0)


@needed
def test_what_is_still_to_come_is_refused() -> None:
    class Coming(torch.Tensor):
        def data_ptr(self) -> int:
            return 0

    right = torch.zeros(8)
    with pytest.raises(TypeError, match="without memory"):
        native.call("gated", right, right, right.as_subclass(Coming), 8, 0)
