"""Metrics as JSON Lines: one object a step, in `metrics.jsonl`. Always on."""

from __future__ import annotations

import json
import os
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from luthier.plugins import Part
from luthier.system.files import refused_writes_of, write_text

FILE, WATCHED = "metrics.jsonl", "watched.jsonl"
"""A run's numbers, and what it says to held-out rows while it learns."""
RECENT = 50
"""Steps whose speed is that of a run."""


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


class Follower:
    """The numbers of a metrics file that grows: what is new in it is read, and nothing twice.

    `recent` has the last steps whole.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        self._begin(0)

    def look(self) -> dict[str, tuple[array[float], array[float]]]:
        """Read on, and give the steps and values of each key up to now.

        A file that was written anew, as when a run goes on from a checkpoint, is read from its beginning.
        """
        with self._lock:
            with suppress(FileNotFoundError), self.path.open("rb") as file:
                known = os.fstat(file.fileno())
                if known.st_ino != self._inode or known.st_size < self._read:
                    self._begin(known.st_ino)
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):  # cut off while it was written
                        break
                    self._read += len(line)
                    with suppress(ValueError):
                        self._take(json.loads(line))
            return {key: (steps[:], values[:]) for key, (steps, values) in self._columns.items()}

    def _begin(self, inode: int) -> None:
        self._inode, self._read = inode, 0
        self._columns: dict[str, tuple[array[float], array[float]]] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def _take(self, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, int | float):
                steps, values = self._columns.setdefault(key, (array("d"), array("d")))
                steps.append(row["step"])
                values.append(value)
        if "seconds" in row:
            self.recent.append(row)


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
