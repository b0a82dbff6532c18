"""What an optimizer cannot do is said before data is read or a model loaded."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from luthier.errors import MissingExtra, UserError
from luthier.factory import Factory
from tests.house.source import ROOT

LIBRARIES = {
    "adamw-8bit": ("bitsandbytes", "quantize"),
    "lion": ("lion_pytorch", "optimizers"),
    "schedule-free": ("schedulefree", "optimizers"),
    "galore": ("galore_torch", "optimizers"),
    "apollo": ("apollo_torch", "optimizers"),
    "badam": ("badam", "optimizers"),
}


class Unused:
    """A part of the factory that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


def prepare(config: Any) -> None:
    Factory(models=Unused(), data=Unused()).prepare(config)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, run_config: Callable[..., Any], kind: str) -> None:
    module, extra = LIBRARIES[kind]
    monkeypatch.setitem(sys.modules, module, None)
    config = run_config(adapter="full", train__optimizer=kind, train__schedule="constant")
    command = rf"train\.optimizer: {kind} needs the library {module}, .*: pip install 'luthier\[{extra}\]'"
    with pytest.raises(MissingExtra, match=command):
        prepare(config)
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("kind", ["galore", "apollo", "badam"])
def test_optimizers_of_full_tuning(run_config: Callable[..., Any], kind: str) -> None:
    said = rf"train\.optimizer: {kind} .* adapter: lora leaves those as they are; write adapter: full, or optimizer"
    with pytest.raises(UserError, match=said):
        prepare(run_config(adapter="lora", train__optimizer=kind))


def test_badam_in_several_processes(monkeypatch: pytest.MonkeyPatch, run_config: Callable[..., Any]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"badam changes which weights .* 2 processes .* write optimizer: galore"):
        prepare(run_config(adapter="full", train__optimizer="badam"))


def test_schedule_free_with_a_schedule(run_config: Callable[..., Any]) -> None:
    said = r"schedule-free takes the place of train\.schedule: cosine; write schedule: constant"
    with pytest.raises(UserError, match=said):
        prepare(run_config(train__optimizer="schedule-free"))


@pytest.mark.parametrize("objective", ["reward", "ppo"])
def test_badam_never_trains_heads_outside_of_its_layers(run_config: Callable[..., Any], objective: str) -> None:
    settings = {"type": objective} | ({"rewards": ["exact_match"]} if objective == "ppo" else {})
    common = {"adapter": "full", "objective": settings}
    with pytest.raises(UserError, match=rf"new head that objective: {objective} needs .* include_embedding_and_head"):
        prepare(run_config(train__optimizer="badam", **common))
    optimizer = {"type": "badam", "include_embedding_and_head": True}
    with pytest.raises(AssertionError, match="was called"):  # it goes on to the model
        prepare(run_config(train__optimizer=optimizer, **common))
