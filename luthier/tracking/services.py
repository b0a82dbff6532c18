"""Metrics for Weights & Biases, SwanLab and trackio, which agree on `init`, `log` and `finish`.

Each writes on this machine unless `mode: online` says otherwise; a run that is resumed goes on in the same place, and
steps that it does again come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier import supplies
from luthier.plugins import Part
from luthier.system.files import refused_writes_of
from luthier.tracking.run import RunFolder, flat


class Wandb(Part):
    """Weights & Biases, in `wandb/` of the output folder; `wandb sync` sends it later."""

    type: Literal["wandb"] = "wandb"
    project: str = "luthier"
    """Project of the run."""
    mode: Literal["offline", "online"] = "offline"
    """offline: nothing leaves this machine."""

    def open(self, folder: Path) -> ServiceTracker:
        """Raises MissingExtra where wandb is not installed."""
        return ServiceTracker(self.type, folder, {"project": self.project, "mode": self.mode, "dir": str(folder)})


class SwanLab(Part):
    """SwanLab, in `swanlog/` of the output folder."""

    type: Literal["swanlab"] = "swanlab"
    project: str = "luthier"
    """Project of the run."""
    mode: Literal["offline", "online"] = "offline"
    """offline: nothing leaves this machine."""

    def open(self, folder: Path) -> ServiceTracker:
        """Raises MissingExtra where swanlab is not installed."""
        settings = {"project": self.project, "mode": self.mode, "log_dir": str(folder / "swanlog")}
        return ServiceTracker(self.type, folder, settings)


class Trackio(Part):
    """trackio, in its own folder on this machine; `trackio show` shows it."""

    type: Literal["trackio"] = "trackio"
    project: str = "luthier"
    """Project of the run."""

    def open(self, folder: Path) -> ServiceTracker:
        """Raises MissingExtra where trackio is not installed."""
        return ServiceTracker(self.type, folder, {"project": self.project, "auto_log_gpu": False, "embed": False})


class ServiceTracker:
    """One run of a service, begun with the first thing that is logged, since its config stands in `run.json` then."""

    def __init__(self, library: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.library = supplies.library(library, f"output.trackers: {library}", library)
        self.folder, self.settings, self.run = folder, settings, None

    def _run(self) -> Any:
        if self.run is None:
            record = RunFolder(self.folder).record() or {"config": {}}
            name = f"{self.folder.resolve().name}-{record.get('id', '')[:6]}"
            own = {} if self.library.__name__ == "trackio" else {"id": record.get("id")}  # which goes by the name
            self.run = self.library.init(
                **self.settings, **own, name=name, config=flat(record["config"]), resume="allow"
            )
        return self.run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step."""
        with refused_writes_of(self.folder):
            self._run().log(dict(values), step=step)

    def note(self, step: int, text: str) -> None:
        """Services keep numbers by step; sentences stand in metrics.jsonl."""

    def rewind(self, step: int) -> None:
        """What is done again is logged again, and is the same."""

    def close(self) -> None:
        """Finish the run."""
        if self.run is not None:
            self.run.finish()
            self.run = None
