"""Forms of commands are what the command line says of itself."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.web import commands

ROOT = typer.main.get_command(app)


def test_fields_of_a_command() -> None:
    found = {field.path: field for field in commands.fields(ROOT, "data clean")}
    assert found["source"].kind == "text" and found["changes"].kind == "lines" and found["dry_run"].kind == "flag"
    assert found["on"].options == ["here", "ray"] and found["workers"].whole and found["workers"].default == 0
    assert "ruler" not in found and "help" not in found and found["output"].about


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"source": "a.csv"}, ["data", "clean", "a.csv"]),
        ({"source": "a.csv", "dry_run": True, "workers": 2}, ["data", "clean", "--dry-run", "--workers", "2", "a.csv"]),
        ({"source": "a.csv", "changes": ["x=1", "y=2"]}, ["data", "clean", "--rule", "x=1", "--rule", "y=2", "a.csv"]),
        ({"source": "-", "on": "here", "output": ""}, ["data", "clean", "--", "-"]),
    ],
)
def test_the_line_of_a_form(values: dict[str, object], line: list[str]) -> None:
    """What is not said, and what is the default, is left out."""
    assert commands.line(ROOT, "data clean", values) == line


def test_flags_that_are_on_can_be_switched_off() -> None:
    assert commands.line(ROOT, "check", {"config": "c.yaml", "probe": False}) == ["check", "--no-probe", "c.yaml"]


def test_the_line_is_understood() -> None:
    line = commands.line(ROOT, "plugins", {"kind": "metric"})
    assert "exact_match" in CliRunner().invoke(app, line).output
