"""Files kept by what they hold: equal files of many versions stand on the disk once.

A version is a folder of its own, whose files are hard links to `files/SHA256`; so it is used like any other folder,
and what no version holds any more is a file with one link. Where the disk has no hard links, versions hold copies.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from luthier.errors import OutputError
from luthier.system.files import PREFIX, refused_writes_of, sha256_of, sync_folder

LEFT_OUT = ("checkpoint-", ".", "tensorboard", "wandb", "swanlog")
"""How names at the top of a run begin that are not kept: what only training needs, locks, and what trackers hold."""


def kept_files(folder: Path) -> list[Path]:
    """The files of a run, or of any folder with a model, that a version consists of, by their names in it.

    Raises:
        OutputError: it is no folder, holds nothing, or a link, which would let in whatever it leads to.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise OutputError(f"{folder}: not a folder, so it cannot be registered; name the output folder of a run")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    names = [name for name in names if not name.parts[0].startswith(LEFT_OUT)]
    for name in names:
        if (folder / name).is_symlink() or not ((folder / name).is_file() or (folder / name).is_dir()):
            raise OutputError(f"{folder / name}: a link or no plain file, so it cannot be registered")
    if not (files := [name for name in names if (folder / name).is_file()]):
        raise OutputError(f"{folder}: holds no files, so there is nothing to register")
    return files


def stage(root: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of a folder that counts for nothing yet, and the sha256 of each of its files.

    Raises:
        OutputError: as `kept_files`.
        StorageError: the disk refused; nothing is left behind.
    """
    names, sums = kept_files(folder), {}
    staged = root / f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with refused_writes_of(staged):
        (root / "files").mkdir(parents=True, exist_ok=True)
        try:
            for name in names:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                sums[name.as_posix()] = _keep(root / "files", folder / name, staged / name)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    return staged, sums


def _keep(files: Path, source: Path, target: Path) -> str:
    """Copy a file durably, make the copy one with what is kept, and return its sha256."""
    shutil.copyfile(source, target, follow_symlinks=False)
    if target.is_symlink():
        raise OutputError(f"{source}: has become a link, so it cannot be registered")
    target.chmod(0o444)
    sync_folder(target)
    kept = files / (name := sha256_of(target))
    with suppress(OSError):  # another process was faster, or the disk has no hard links: the copy serves as well
        if kept.exists() and sha256_of(kept) == name:
            twin = target.with_name(f"{PREFIX}{name}")
            os.link(kept, twin)
            twin.replace(target)
        else:
            kept.unlink(missing_ok=True)  # damaged; what is staged is whole
            os.link(target, kept)
    return name
