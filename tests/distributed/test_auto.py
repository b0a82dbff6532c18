"""Which strategy a process gets."""

from __future__ import annotations

import pytest

from luthier.distributed.auto import Auto
from luthier.distributed.ddp import Ddp
from luthier.distributed.single import Single, SingleStrategy
from luthier.errors import UserError


@pytest.fixture(autouse=True)
def outside_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("size", "ranks"), [(None, 1), ("1", 1), ("2", 2), ("16", 16)])
def test_ranks(monkeypatch: pytest.MonkeyPatch, size: str | None, ranks: int) -> None:
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert Auto().ranks() == ranks and Single().ranks() == 1


@pytest.mark.parametrize("size", [None, "1"])
def test_one_process_is_single(monkeypatch: pytest.MonkeyPatch, size: str | None) -> None:
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    strategy = Auto().open()
    assert isinstance(strategy, SingleStrategy) and (strategy.rank, strategy.ranks) == (0, 1)


@pytest.mark.parametrize("given", [{}, {"WORLD_SIZE": "2"}, {"RANK": "0"}], ids=str)
def test_ddp_outside_of_torchrun(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start it with: luthier train CONFIG --devices 2"):
        Ddp().open()


def test_several_processes_are_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(Ddp, "open", lambda self: opened.append("ddp"))
    Auto().open()
    assert opened == ["ddp"]
