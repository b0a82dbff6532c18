"""A tracker writes down numbers by step.

What it does: keeps values under their step, and forgets steps that a resumed run will do again.
What it must not know: where the numbers come from.
How to add one: a settings class with `open`, one line in `plugins.BUILT_IN["tracker"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


class Tracker(Protocol):
    """An open place for numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values of one step."""

    def note(self, step: int, text: str) -> None:
        """Keep a sentence about what happened after a step."""

    def rewind(self, step: int) -> None:
        """Forget everything after a step: a resumed run does it again."""

    def close(self) -> None:
        """Everything is on disk afterwards."""


@runtime_checkable
class TrackerSettings(Protocol):
    """The config part of a tracker."""

    type: str

    def open(self, folder: Path) -> Tracker:
        """Start writing below an output folder."""
