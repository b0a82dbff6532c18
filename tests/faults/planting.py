"""Planting an error in Luthier or in what it is given, and who must catch it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.data import pack
from luthier.data.render import Renderer, Tokens
from luthier.errors import CheckFailed, Interrupted
from luthier.factory import Factory
from tests.invariance.conftest import trains_in
from tests.invariance.test_resume import StopAt

Make = Callable[..., Any]
Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], object]


@pytest.fixture
def suite(tmp_path: Path, run_config: Make, tiny: Path, tokenizer: Any) -> Callable[..., None]:
    """Runs a test of the suite in a folder of its own."""
    count = itertools.count()

    def run(test: Callable[..., None], **given: Any) -> None:
        home = tmp_path / f"suite{next(count)}"
        home.mkdir()

        def config(rows: Any = None, **overrides: Any) -> Any:
            return run_config(rows, **{"output": str(home / "run")} | overrides)

        own = {"train": trains_in(home, run_config), "tmp_path": home, "run_config": config, "tiny": tiny}
        test(**{name: own[name] for name in inspect.signature(test).parameters if name in own} | given)

    return run


@pytest.fixture
def caught(suite: Callable[..., None], monkeypatch: Patch) -> Callable[..., None]:
    """A test of the suite passes, and fails with an error planted."""

    def require(plant: Plant, test: Callable[..., None], **given: Any) -> None:
        suite(test, **given)
        with monkeypatch.context() as patch:
            plant(patch)
            with pytest.raises((AssertionError, pytest.fail.Exception)) as failed:
                suite(test, **given)
        assert failed.traceback[-1].path == Path(inspect.getfile(test)), "not by what it asserts"

    return require


def found(config: Any) -> set[str]:
    """The names of the errors that `luthier check` finds."""
    return {finding.name for finding in Factory().check(config).report.findings if finding.level == "error"}


def refused(config: Any, *names: str) -> None:
    """The run is refused with these findings before anything is trained."""
    with pytest.raises(CheckFailed) as error:
        luthier.Factory().fine_tune(config)
    assert {line.strip().partition(":")[0] for line in str(error.value).splitlines()[1:]} == set(names), error.value
    assert not list(Path(config.output.dir).glob("*"))


def rendered(patch: Patch, change: Callable[[Tokens], Tokens]) -> None:
    """Change what the renderer makes of conversations."""
    real = Renderer.conversation
    patch.setattr(Renderer, "conversation", lambda self, given: [change(tokens) for tokens in real(self, given)])


def other_targets(patch: Patch, change: Callable[[pack.Targets], pack.Targets]) -> None:
    """Change what is asked of the model."""
    real = pack._Rows._targets
    patch.setattr(pack._Rows, "_targets", lambda self, starts: change(real(self, starts)))


def stopped(config: Any, step: int = 2) -> Path:
    """The folder of a run that was stopped."""
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(config, observers=[StopAt(step)])
    return Path(config.output.dir)
