"""What a folder was made of: a run says it itself, and whatever is made of a model says it in `made.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from luthier.errors import OutputError
from luthier.registry.names import SCHEME
from luthier.system.files import write_text
from luthier.tracking.run import RunFolder

FILE = "made.json"
Made = Literal["adapter", "full", "continued", "merged", "exported", "quantised"]
"""An adapter on its parent, all weights trained anew, a run that goes on with a tuned model; and what needs no run."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How a model was made, and of which."""

    made: str
    parents: Sequence[str]
    run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def say_origin(folder: Path, made: Made, parents: Sequence[str]) -> None:
    """Write into a folder what it was made of, for its registration."""
    write_text(folder / FILE, json.dumps(asdict(Origin(made, list(parents)))) + "\n")


def origin_of(folder: Path) -> Origin:
    """How the model of a folder was made.

    Raises:
        OutputError: an unfinished run, or nothing says it.
    """
    record = RunFolder(folder).record()
    if record is None:
        told = read_json(folder / FILE)
        if told.get("made") not in get_args(Made) or not isinstance(told.get("parents"), list):
            raise OutputError(
                f"{folder}: no run of Luthier, and no {FILE} says what it was made of; say it: --parent MODEL "
                "--made exported"
            )
        return Origin(told["made"], told["parents"], told.get("run", ""), told.get("metrics", {}))
    if not record["finished"]:
        raise OutputError(f"{folder}: an unfinished run; let luthier train come to its end first")
    parent = str(record["config"]["model"]["path"])
    tuned = parent.startswith(SCHEME) or RunFolder(Path(parent).expanduser()).record() is not None
    plain = "adapter" if (folder / "adapter_config.json").is_file() else "full"
    measured = {
        name: value for name, value in read_json(folder / "metrics.json").items() if isinstance(value, int | float)
    }
    return Origin("continued" if tuned else plain, [parent], record.get("id", ""), measured)


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none that can be read."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
