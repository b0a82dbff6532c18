"""What is watched improves in sight, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import Interrupted
from luthier.factory import Factory
from luthier.tracking.jsonl import WATCHED, read_metrics
from tests.conftest import chat_rows
from tests.invariance.conftest import weights
from tests.invariance.test_resume import StopAt

WATCHES = {"evaluate__watch": 2, "evaluate__max_new_tokens": 8, "train__evaluate_every": "2 steps",
           "train__save_every": "2 steps"}  # fmt: skip


def told(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["question"]) for row in read_metrics(folder / WATCHED)]


def test_answers_come_with_every_evaluation(run_config: Callable[..., Any], tmp_path: Path) -> None:
    """From step 0 on, two a time; the run is the same to the bit, and one that is stopped goes on with them."""
    every = ("watched", "plain", "stopped")
    whole, plain, stopped = (
        run_config(
            chat_rows(24),
            output__dir=str(tmp_path / name),
            **WATCHES | ({"evaluate__watch": 0} if name == "plain" else {}),
        )
        for name in every
    )
    for config in (whole, plain):
        Factory().fine_tune(config)
    with pytest.raises(Interrupted):
        Factory().fine_tune(stopped, observers=[StopAt(3)])
    Factory().fine_tune(stopped)
    seen = told(tmp_path / "watched")
    assert [step for step, _ in seen] == [0, 0, 2, 2, 4, 4] and len({asked for _, asked in seen}) == 2
    assert told(tmp_path / "stopped") == seen and not (tmp_path / "plain" / WATCHED).exists()
    rows = read_metrics(tmp_path / "watched" / WATCHED)
    assert all(row["reference"] and isinstance(row["answer"], str) for row in rows)
    ours, theirs = weights(tmp_path / "watched"), weights(tmp_path / "plain")
    assert all((ours[name] == theirs[name]).all() for name in ours)
