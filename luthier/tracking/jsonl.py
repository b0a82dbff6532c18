"""Metrics as JSON Lines: one object a step, in `metrics.jsonl`. Always on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.plugins import Part
from luthier.system.files import refused_writes_of, write_text

FILE = "metrics.jsonl"


class Jsonl(Part):
    """Write `metrics.jsonl` in the output folder."""

    type: Literal["jsonl"] = "jsonl"

    def open(self, folder: Path) -> JsonlTracker:
        """Append to the file."""
        return JsonlTracker(folder / FILE)


class JsonlTracker:
    """Each line is complete when `log` returns, so a reader may follow the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Append one line; raises StorageError when the disk is full."""
        self._append({"step": step, **values})

    def note(self, step: int, text: str) -> None:
        """Append a line with `note` instead of numbers."""
        self._append({"step": step, "note": text})

    def _append(self, row: Mapping[str, object]) -> None:
        with refused_writes_of(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Keep the lines up to a step; a last line that was cut off goes too."""
        if self.path.exists():
            kept = (row for row in lines(self.path) if row["step"] <= step)
            write_text(self.path, (json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Nothing is held open."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file, oldest first; empty where there is none."""
    return list(lines(path)) if path.exists() else []


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a file, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:  # cut off while it was written
                return
