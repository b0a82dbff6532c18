"""A version made again from its record, to see whether it comes out the same.

It is trained by the same command in a folder of its own, where the first run was started, with as many processes and
threads. What it was made from is looked at before: where that has changed, there is nothing to reproduce.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

from luthier.config import RunConfig, read_config
from luthier.data.ledger import ROWS
from luthier.drive.differ import changed_rows, named
from luthier.drive.launch import launch
from luthier.errors import DataError, ModelError, OutputError, UserError
from luthier.models.inputs import sums
from luthier.registry.index import Registry, Version
from luthier.registry.origin import read_json
from luthier.tracking.run import INPUTS, RunFolder

SAID: dict[str, object] = {"output.trackers": [], "output.register_as": None}
"""What a run that is made again does not do again."""


def require_unchanged(registry: Registry, version: Version) -> RunConfig:
    """The config of a version whose run can be made again, here and now; looked at from the folder it was started in.

    Raises:
        UserError: it was not trained, not in one go, or from standard input.
        ModelError: its files, or the model that it stands on, are not what they were.
        DataError: rows are not; names them.
    """
    folder = registry.folder(version)
    record, inputs = RunFolder(folder).record(), read_json(folder / INPUTS)
    if record is None or "-" in inputs.get("data", "-"):
        raise UserError(
            f"{version.uri}: {version.made} of {', '.join(version.parents)}, not trained from files of rows"
        )
    if record.get("changes"):
        raise UserError(f"{version.uri}: went on under another setting half-way ({'; '.join(record['changes'])})")
    if damaged := registry.damaged(version):
        raise ModelError(f"{version.uri}: {damaged[0]} is not as it was registered")
    config = read_config(folder / "config.yaml")
    if changed := _changed(inputs["model"]):
        raise ModelError(f"{version.uri}: the model that it stands on is not what it was: {named(changed)}")
    if changed := _changed(inputs["data"]):
        rows = changed_rows(read_json(folder / ROWS), _rows_now(config))
        if rows or config.data.streaming:  # else the files differ, and say the same
            raise DataError(f"{version.uri}: {named(rows or changed)}; it was made from other rows than are there now")
    return config


def _changed(recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files that are not what they were."""
    now = sums(recorded)
    return [
        f"{name} is {'gone' if now[name]['bytes'] is None else 'another file'}"
        for name in now
        if now[name] != recorded[name]
    ]


def _rows_now(config: RunConfig) -> dict[str, Any]:
    """The ledger that a run would have now; without rows where they cannot be read any more."""
    from luthier.factory import Factory

    try:
        rows: dict[str, Any] = json.loads("".join(Factory().prepare(config).data.ledger.to_json()))
    except UserError:
        return {"rows": []}
    return rows


def reproduce(registry: Registry, version: Version, target: Path) -> Path:
    """Train a version again into a new folder, and return it; what it prints is seen.

    Raises:
        UserError: as `require_unchanged`, or the folder it was started in is gone.
        OutputError: the run failed; it has said why.
    """
    folder = registry.folder(version)
    inputs, machine = read_json(folder / INPUTS), read_json(folder / "environment.json")
    place, target = Path(inputs.get("directory", ".")), target.resolve()
    if not place.is_dir():
        raise UserError(f"{version.uri}: {place}, where its files of rows are named from, is gone")
    with chdir(place):
        require_unchanged(registry, version)
        os.environ["OMP_NUM_THREADS"] = str(machine.get("torch_threads", 1))  # sums of floats depend on it
        said = [f"{key}={json.dumps(value)}" for key, value in (SAID | {"output.dir": str(target)}).items()]
        if launch(inputs["processes"], ["train", str(folder / "config.yaml"), *said]):
            raise OutputError(f"{version.uri}: the run that makes it again has failed")
    return target
