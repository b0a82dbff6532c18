"""`luthier check`: what the run takes, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.drive import fit as drive
from luthier.drive.fit import Tried
from luthier.errors import OutOfMemory
from luthier.factory import Factory
from luthier.train.fit import Fit
from tests.drive.test_fit import takes

Command = Callable[..., Any]


@pytest.fixture
def written(run_config: Callable[..., Any], tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(run_config().to_yaml(), encoding="utf-8")
    return tmp_path / "c.yaml"


def test_memory_by_part_and_time(luthier: Command, written: Path) -> None:
    said = luthier("check", written)
    assert said.status == 0 and "ok: 18 rows" in said.out
    for part in ("process", "weights", "gradients", "optimizer", "logits", "activations", "together, measured"):
        assert part in said.out
    assert "s a step, 4 steps: about" in said.out and "what would help" not in said.out


def test_without_a_probe(luthier: Command, written: Path) -> None:
    said = luthier("check", written, "--no-probe")
    assert said.status == 0 and "ok: 18 rows" in said.out and "memory" not in said.out and "a step" not in said.out


@pytest.mark.parametrize("size", ["8 apples", "-1GB", "", "lots"])
def test_a_size_that_is_none(luthier: Command, written: Path, size: str) -> None:
    said = luthier("check", written, "--memory", size)
    assert said.status == 2 and "--memory: " in said.err and "write '4 GB'" in said.err and "Traceback" not in said.err


def answer(monkeypatch: pytest.MonkeyPatch, fit: Fit | None, tried: list[Tried]) -> list[tuple[int, int]]:
    """A machine on which the run takes this, and changes of it that."""
    check, asked = Factory.check, []

    def instead(self: Factory, config: Any, *, most_bytes: int | None = None) -> Any:
        if fit is None:
            raise OutOfMemory("not even the smallest step fits into memory: no more")
        return replace(check(self, config), fit=fit)

    def proposals(config: Any, fit: Any, *, room: int, most_bytes: int) -> list[Tried]:
        asked.append((room, most_bytes))
        return tried

    monkeypatch.setattr(Factory, "check", instead)
    monkeypatch.setattr(drive, "proposals", proposals)
    return asked


def test_what_would_make_it_fit(luthier: Command, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Tried("adapter=qlora", None, "it needs a library\nand more"),
        Tried("train.micro_batch_tokens=8", takes(3, measured=False)),
        Tried("train.gradient_checkpointing=true", takes(0.3)),
    ]
    asked = answer(monkeypatch, takes(5), found)
    said = luthier("check", written, "--memory", "4GB")
    assert said.status == 1 and asked[0][0] == 4 * 10**9 < asked[0][1]
    assert "memory: the run takes 6.80 GB at its peak, and may take 4.00 GB; what would help:" in said.out
    assert "it needs a library" in said.out and "and more" not in said.out
    assert [word in said.out for word in ("4.80", "does not fit", "2.10", " fits")] == [True] * 4
    last = "does not fit as it is; add to the command or the config: train.gradient_checkpointing=true"
    assert said.out.splitlines()[-1] == last and "ok: " not in said.out


def test_nothing_fits(luthier: Command, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, takes(5, measured=False), [Tried("adapter=qlora", takes(5))])
    said = luthier("check", written, "--memory", "4GB")
    assert "the run takes about 6.80 GB" in said.out and "together, extrapolated" in said.out
    assert said.status == 1 and "does not fit, nor with any of these; a smaller model" in said.out


def test_nothing_can_be_measured(luthier: Command, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, None, [Tried("adapter=qlora", takes(0.1))])
    said = luthier("check", written)
    assert said.status == 1
    assert "not even the smallest step fits into memory: no more" in said.out
    assert "takes more than there is at its peak" in said.out and "adapter=qlora" in said.out
