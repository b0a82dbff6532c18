"""What a run is made from, as `inputs.json` says it: the command, files with hashes, licences, the state of git."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from luthier.config import RunConfig
from luthier.data.sources import files_of
from luthier.errors import ModelError
from luthier.models.catalogue import entries
from luthier.models.find import find
from luthier.registry.index import place_of
from luthier.system.files import sha256_of
from luthier.tracking.run import INPUTS

HASHED_BYTES = 2**33
"""Larger files are known by their sizes: 8 GB take about ten seconds."""


def inputs_of(config: RunConfig) -> str:
    """The text of `inputs.json`; a hub model has no files here, since its commit is in what stands on it."""
    own = config.data.held_out if isinstance(config.data.held_out, list) else []
    sources = [*config.data.train, *own]
    code = (str(path) for path in on_disk(config.model_dump(mode="json")["objective"]) if path.is_file())
    tree = {
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "git": _git(),
        "data": sums([*(file for source in sources for file in files_of(source)), *code]),
        "model": sums(_weights(config.model.path)),
        "licence": licence_of(config.model.path),
        "licences": {source.path: source.licence for source in sources},
    }
    return json.dumps(tree, indent=1) + "\n"


def _weights(path: str) -> list[str]:
    try:
        found = find(path)
    except ModelError:  # whoever replaced the loader knows where it is
        return []
    if found.kind == "gguf":
        return [found.location]
    folders = [place for place in (found.adapter, Path(found.location)) if place is not None and place.is_dir()]
    return [str(file) for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def sums(files: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of files by their names; what is no file, as a stream or a name of the hub, has neither."""
    found: dict[str, dict[str, Any]] = {}
    for name in files:
        size = Path(name).stat().st_size if Path(name).is_file() else None
        found[name] = {
            "bytes": size,
            "sha256": sha256_of(Path(name)) if size is not None and size <= HASHED_BYTES else None,
        }
    return found


def _git() -> dict[str, Any] | None:
    """Commit and changed files of the folder that the command runs in; None where it is in no repository."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=20).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    commit = next((line.split()[2] for line in said if line.startswith("# branch.oid")), None)
    return {"commit": commit, "changed": [line.split(" ", 8)[-1] for line in said if not line.startswith("#")]}


def on_disk(tree: object) -> Iterator[Path]:
    """What an objective names on this machine: a teacher, reward models, files with code."""
    if isinstance(tree, list):
        yield from (path for value in tree for path in on_disk(value))
    if isinstance(tree, Mapping):
        yield from on_disk(list(tree.values()))
        named = (Path(tree[key]).expanduser() for key in ("path", "teacher") if tree.get(key))
        yield from (path for path in named if path.exists())


def licence_of(path: str) -> str | None:
    """The licence of a model: as the catalogue, the run that tuned it, or the head of its README.md says."""
    place = place_of(path)
    if path in entries():
        return entries()[path].licence
    try:
        if (place / INPUTS).is_file():
            told = json.loads((place / INPUTS).read_text(encoding="utf-8"))
        else:
            told = yaml.safe_load((place / "README.md").read_text(encoding="utf-8").split("---")[1])
        licence = told["licence" if "licence" in told else "license"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) else None
