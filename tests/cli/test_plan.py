"""`luthier plan`: what is printed, and what is said of wrong input."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from luthier.config import parse_config
from tests.cli.conftest import Said

Command = Callable[..., Said]


def test_a_model_alone(luthier: Command, tiny: Path) -> None:
    """What it prints for the best is a part of a config; weights are not needed."""
    said = luthier("plan", tiny, "--devices", 2, "--length", 64, "adapter=full")
    assert said.status == 0, said.err
    assert "steps of 2 rows of 64 tokens; 2 x h100, 80 GB" in said.out and "what fits, the quickest first" in said.out
    written = yaml.safe_load(re.findall(r"write +(parallel: .*)", said.out)[0])
    parse_config({"model": "x", "data": {"train": ["x"]}, "output": "x", **written})


def test_a_config_of_sizes(luthier: Command, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert luthier("plan", tmp_path / "config.json", "--length", 64).status == 0


def test_a_run(luthier: Command, tiny: Path, tmp_path: Path) -> None:
    """Its batch size counts, and changes to it."""
    tree = {"model": str(tiny), "data": {"train": ["x"]}, "output": "x", "train": {"batch_size": 4}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    said = luthier("plan", tmp_path / "run.yaml", "--devices", 8, "--length", 64, "train.precision=fp32")
    assert "steps of 4 rows" in said.out and "4 rows is not shared out evenly" in said.out and "fp32" in said.out


def test_nothing_fits(luthier: Command, tiny: Path) -> None:
    said = luthier("plan", tiny, "--devices", 2, "--memory", "1MB", "--length", 64)
    assert said.status == 1 and "what does not fit" in said.out and "nothing fits; what takes less" in said.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--device", "h10"), "no device 'h10'; did you mean 'h100'?"),
        (("--memory", "lots"), "--memory: 'lots' is not a size"),
        (("adaptr=full",), "adaptr: unknown key; did you mean 'adapter'?"),
    ],
)
def test_wrong_input(luthier: Command, tiny: Path, more: tuple[str, ...], message: str) -> None:
    said = luthier("plan", tiny, *more)
    assert said.status == 2 and message in said.err and "Traceback" not in said.err
