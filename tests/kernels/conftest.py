"""Native helpers are built once for all tests, in Luthier's own folder."""

from __future__ import annotations

import shutil

import pytest

from luthier.kernels import native


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    """A machine with a compiler must have the helpers: nothing below is skipped because they do not build."""
    if shutil.which("gcc"):
        assert native.reason() is None
