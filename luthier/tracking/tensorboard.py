"""Metrics for TensorBoard, in `tensorboard/` of the output folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.plugins import Part
from luthier.supplies import library
from luthier.system.files import refused_writes_of


class TensorBoard(Part):
    """Write event files for `tensorboard --logdir`."""

    type: Literal["tensorboard"] = "tensorboard"

    def open(self, folder: Path) -> TensorBoardTracker:
        """Raises MissingExtra where tensorboard is not installed."""
        library("tensorboard", "output.trackers: tensorboard", "tensorboard")
        return TensorBoardTracker(folder / "tensorboard")


class TensorBoardTracker:
    """One event file per start of the run; a resumed run tells TensorBoard which steps to hide."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def _open(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            with refused_writes_of(self.folder):
                self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        return self.writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar per value."""
        writer = self._open()
        with refused_writes_of(self.folder):
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    def note(self, step: int, text: str) -> None:
        """A text."""
        writer = self._open()
        with refused_writes_of(self.folder):
            writer.add_text("note", text, step)

    def rewind(self, step: int) -> None:
        """Hide later steps of earlier starts."""
        self._open(purge_step=step + 1)

    def close(self) -> None:
        """Flush."""
        if self.writer is not None:
            with refused_writes_of(self.folder):
                self.writer.close()
            self.writer = None
