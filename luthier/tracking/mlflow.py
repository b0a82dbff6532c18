"""Metrics and settings for MLflow: a sqlite file in Luthier's folder, or any tracking server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.plugins import Part
from luthier.supplies import library
from luthier.system.files import refused_writes_of
from luthier.system.home import home
from luthier.tracking.run import RunFolder, flat


class MLflow(Part):
    """Write a run of MLflow."""

    type: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    """Tracking server or database; null: a sqlite file in Luthier's folder, which takes seconds to make once."""
    experiment: str = "luthier"
    """Experiment of the run."""

    def open(self, folder: Path) -> MLflowTracker:
        """Raises MissingExtra where mlflow is not installed."""
        library("mlflow", "output.trackers: mlflow", "registry")
        return MLflowTracker(folder, self.uri or f"sqlite:///{home() / 'mlflow.sqlite'}", self.experiment)


class MLflowTracker:
    """One run of MLflow for one run of ours, also when that is resumed; found by our id among its tags."""

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        self.folder, self.uri, self.experiment = folder, uri, experiment
        self.client: Any = None
        self.run = ""

    def _begin(self) -> None:
        from mlflow import MlflowClient

        home().mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(self.uri)
        record = RunFolder(self.folder).record() or {"config": {}}
        known = self.client.get_experiment_by_name(self.experiment)
        place = known.experiment_id if known else self.client.create_experiment(self.experiment)
        tags = {"luthier.run": record.get("id", ""), "luthier.folder": str(self.folder.resolve())}
        before = self.client.search_runs([place], f"tags.`luthier.run` = '{tags['luthier.run']}'")
        if before:
            self.run = before[0].info.run_id
            return
        self.run = self.client.create_run(place, run_name=self.folder.resolve().name, tags=tags).info.run_id
        for key, value in flat(record["config"]).items():
            self.client.log_param(self.run, key, str(value)[:6000])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, in one request."""
        import time

        from mlflow.entities import Metric

        with refused_writes_of(self.folder):
            if self.client is None:
                self._begin()
            moment = int(time.time() * 1000)
            self.client.log_batch(self.run, [Metric(name, value, moment, step) for name, value in values.items()])

    def note(self, step: int, text: str) -> None:
        """A tag."""
        if self.client is not None:
            self.client.set_tag(self.run, f"note.{step}", text)

    def rewind(self, step: int) -> None:
        """What is done again is logged again, and is the same."""

    def close(self) -> None:
        """End the run."""
        if self.client is not None:
            self.client.set_terminated(self.run)
            self.client = None
