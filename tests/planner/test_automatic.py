"""`parallel: auto` in several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from luthier.planner import automatic as room
from luthier.planner.automatic import automatic
from luthier.planner.choose import device
from luthier.planner.shape import Shape

Make = Callable[..., Shape]


@pytest.fixture
def chosen(shape: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str]]]:
    """The kind that a config gets in four processes of so many bytes each, and what is said of it."""

    def ask(memory: float, **changes: Any) -> tuple[str, list[str]]:
        said: list[str] = []
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setattr(room, "_device", lambda *_: replace(device("cpu", "fp32"), memory=memory, taken=0))
        config = shape(**({"data": {"train": ["x"], "max_length": 64}, "train": {"batch_size": 8}} | changes)).config
        return automatic(config, said.append).type, said

    return ask


def test_what_is_written_stays(chosen: Callable[..., tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(1, parallel="tensor") == ("tensor", [])


@pytest.mark.parametrize("memory", [1e12, 30e6])
def test_the_whole_model_where_that_fits(chosen: Callable[..., tuple[str, list[str]]], memory: float) -> None:
    """Which is known at once where there is much room, and else by looking at a step."""
    assert chosen(memory) == ("ddp", [])


def test_else_pieces_and_why(chosen: Callable[..., tuple[str, list[str]]]) -> None:
    kind, said = chosen(7e6)
    assert kind in ("fsdp", "tensor", "pipeline", "sequence") and "the whole model would take 0.0 GB" in said[0]


def test_only_what_goes_with_the_run(chosen: Callable[..., tuple[str, list[str]]]) -> None:
    """BAdam goes with nothing that is cut."""
    kind, said = chosen(7e6, train={"batch_size": 8, "optimizer": "badam"})
    assert kind == "ddp" and said[0].startswith("warning: parallel: ddp")


def test_what_fits_nowhere(chosen: Callable[..., tuple[str, list[str]]]) -> None:
    kind, said = chosen(1e5)
    assert kind != "ddp" and "which may not suffice" in said[0]


def test_one_process_asks_nothing(shape: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(room, "Shape", None)
    assert automatic(shape().config, print).type == "auto"
