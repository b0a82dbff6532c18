"""`luthier evaluate`: what it says beside the means."""

from __future__ import annotations

import re

import pytest

from luthier.cli.evaluate import WORST, _worst
from luthier.evaluate.measure import Measured
from luthier.evaluate.records import Record


@pytest.mark.parametrize("rows", [3, WORST, 12])
def test_rows_that_a_model_finds_least_likely(rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The highest losses first, by token and not in sum; of few rows there is nothing to pick."""
    found = [
        Record("a", "loss", f"r{n}", f"a:{n}", f"question {n}", "", "", {"loss": [float(n * n), float(n)]}, {})
        for n in range(1, rows + 1)
    ]
    choices = Record("a", "choice", "c", "a:99", "which?", "", "", {"acc": [1.0, 1.0]}, {})
    _worst(Measured("a", [*found, choices], []))
    said = re.findall(r"a:(\d+)", capsys.readouterr().out)
    assert said == ([str(n) for n in range(12, 12 - WORST, -1)] if rows == 12 else [])
