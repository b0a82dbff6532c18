"""What would make a run fit, from the cheapest change on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.drive import fit as drive
from luthier.drive.fit import Tried, changes, proposals
from luthier.train.fit import Fit

Make = Callable[..., RunConfig]
GB = 10**9


def takes(activations: float, *, weights: float = 1, measured: bool = True) -> Fit:
    return Fit(
        process=GB // 2,
        weights=int(weights * GB),
        gradients=GB // 10,
        optimizer=GB // 5,
        logits=0,
        activations=int(activations * GB),
        loading=GB,
        largest_tokens=400,
        steps=10,
        seconds_per_step=1.0 if measured else None,
        measured=measured,
    )


@pytest.mark.parametrize(
    ("overrides", "room", "wanted"),
    [
        (
            {},
            4,
            [
                "train.micro_batch_tokens=200",
                "train.gradient_checkpointing=true",
                "train.micro_batch_tokens=200 train.gradient_checkpointing=true",
                "adapter=qlora train.micro_batch_tokens=200 train.gradient_checkpointing=true",
            ],
        ),
        (
            {"train__micro_batch_size": 6, "train__gradient_checkpointing": True},
            4,
            ["train.micro_batch_size=3", "adapter=qlora train.micro_batch_size=3"],
        ),
        ({"train__micro_batch_size": 1, "train__gradient_checkpointing": True}, 4, ["adapter=qlora"]),
        (
            {"adapter": "full", "train__micro_batch_size": 1},
            1,  # less than what stays in memory
            [
                "train.optimizer=adamw-8bit train.gradient_checkpointing=true",
                "adapter=lora train.gradient_checkpointing=true",
                "adapter=qlora train.gradient_checkpointing=true",
            ],
        ),
    ],
)
def test_what_is_tried(run_config: Make, overrides: dict[str, Any], room: float, wanted: list[str]) -> None:
    assert changes(run_config(**overrides), takes(3), room=int(room * GB)) == wanted


def test_a_quantised_run_has_no_smaller_base(run_config: Make) -> None:
    assert not any("adapter" in change for change in changes(run_config(adapter="qlora"), None, room=GB))


def test_the_first_that_fits_ends_it(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Tried("a", None, "no"), Tried("b", takes(0.1, measured=False)), Tried("c", takes(0.5)), None])
    monkeypatch.setattr(drive, "_measured", lambda config, change, most: next(answers))
    found = list(proposals(run_config(), takes(3), room=3 * GB, most_bytes=9 * GB))
    assert [tried.change for tried in found] == ["a", "b", "c"]


@pytest.mark.slow
def test_a_change_is_measured_in_a_process_of_its_own(run_config: Make) -> None:
    config = run_config()
    tried = drive._measured(config, "train.micro_batch_tokens=64 train.gradient_checkpointing=true", 10**12)
    assert tried.fit is not None and tried.fit.measured and tried.fit.largest_tokens < 100
    short = drive._measured(config, "train.micro_batch_tokens=64", 100_000_000)
    assert short.fit is None and "GB are held, more than 0.10 GB" in short.reason
    wrong = drive._measured(config, "adapter=nothing", 10**12)
    assert wrong.fit is None and "adapter" in wrong.reason


def test_a_process_that_is_ended(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([sys.executable], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert drive._measured(run_config(), "adapter=full", 1).reason == "the process that tried it ended with status -9"
