"""What an optimizer cannot do is said before data is read or a model loaded."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from luthier.errors import MissingExtra
from luthier.factory import Factory
from tests.house.source import ROOT

LIBRARIES = {
    "adamw-8bit": ("bitsandbytes", "quantize"),
}


class Unused:
    """A model loader that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, run_config: Callable[..., Any], kind: str) -> None:
    module, extra = LIBRARIES[kind]
    monkeypatch.setitem(sys.modules, module, None)
    config = run_config(adapter="full", train__optimizer=kind, train__schedule="constant")
    command = rf"train\.optimizer: {kind} needs the library {module}, .*: pip install 'luthier\[{extra}\]'"
    with pytest.raises(MissingExtra, match=command):
        Factory(models=Unused(), data=Unused()).prepare(config)
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
