"""What the services are told; each was also seen to keep it, in an environment of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from luthier.errors import MissingExtra
from luthier.plugins import load
from luthier.tracking.run import RunFolder

KINDS = ["wandb", "swanlab", "trackio"]


class Service(ModuleType):
    """The three functions that they agree on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[Any] = []

    def init(self, **settings: Any) -> Service:
        self.told.append(settings)
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_a_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    service = Service(kind)
    monkeypatch.setitem(sys.modules, kind, service)
    run = RunFolder(tmp_path / "mine")
    run.start({"train": {"seed": 3}}, "data", {}, restart=False)
    tracker = load("tracker", kind)().open(run.path)
    tracker.rewind(0)
    tracker.log(1, {"loss": 2.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    tracker.close()
    settings, *rest = service.told
    identity = (run.record() or {})["id"]
    assert settings["project"] == "luthier" and settings["name"] == f"mine-{identity[:6]}"
    assert settings["config"] == {"train.seed": 3} and settings["resume"] == "allow"
    assert settings.get("id") == (None if kind == "trackio" else identity)
    assert settings.get("mode") == (None if kind == "trackio" else "offline"), "nothing leaves the machine unasked"
    assert rest == [(1, {"loss": 2.0}), (2, {"loss": 1.0}), "finished"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingExtra, match=re.escape(f"output.trackers: {kind} needs {kind}, which is not")) as e:
        load("tracker", kind)().open(tmp_path)
    assert str(e.value).endswith(f"pip install 'luthier[{kind}]'")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_was_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    service = Service(kind)
    monkeypatch.setitem(sys.modules, kind, service)
    load("tracker", kind)().open(tmp_path).close()
    assert service.told == []
