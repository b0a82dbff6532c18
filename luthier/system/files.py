"""Files that appear whole or not at all (temporary name, fsync, rename, fsync of the folder), and scratch space."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from luthier.errors import StorageError

PREFIX = ".incomplete-"
"""Names of what is being written; anything with it may be deleted when nothing runs."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Keep other processes out until the block ends; the system gives the lock back where a process is killed."""
    with path.open("w", encoding="utf-8") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # a system, or a file system, without locks
            pass
        yield file


def scratch_database(*tables: str) -> sqlite3.Connection:
    """A database for this process alone, in memory while it is small, else in a file that goes away with it."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for statement in ("PRAGMA journal_mode = OFF", "PRAGMA cache_size = -32000", "BEGIN", *tables):  # 32 MB
        database.execute(statement)
    return database


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Replace a text file atomically; the text may come in pieces.

    Raises:
        StorageError: the disk refused; the old file is intact.
    """
    temporary = path.with_name(PREFIX + path.name)
    with refused_writes_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it gets its name when the block ends, and is removed when the block fails.

    Raises:
        StorageError: the disk refused; whatever stood at `path` before is intact.
    """
    with incomplete_folder(path) as folder:
        yield folder
        complete_folder(path)


@contextmanager
def incomplete_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which does not count before `complete_folder(path)`; it is removed when the block fails.

    Raises:
        StorageError: the disk refused; whatever stood at `path` before is intact.
    """
    temporary = path.with_name(PREFIX + path.name)
    with refused_writes_of(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def complete_folder(path: Path, describe: Callable[[Path], None] = lambda folder: None) -> None:
    """Let `describe` add what is last to what `incomplete_folder(path)` has filled, make it durable, give it its name.

    Raises:
        StorageError: the disk refused; whatever stood at `path` before is intact, and what was filled is gone.
    """
    temporary, old = path.with_name(PREFIX + path.name), path.with_name(f"{PREFIX}old-{path.name}")
    with refused_writes_of(path):
        try:
            describe(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            sync_folder(temporary)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            temporary.rename(path)
            sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def beside_incomplete_folder(path: Path) -> Iterator[Path]:
    """The folder that another process fills by `incomplete_folder`, for this one to write into; raises as that."""
    with refused_writes_of(path):
        yield path.with_name(PREFIX + path.name)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def refused_writes_of(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one message that names the file and the free space.

    Libraries wrap the system's error in types of their own (safetensors), so the message is looked at too.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        full = number in _FULL or any(f"os error {code}" in str(error) for code in _FULL)
        if not full and not isinstance(error, PermissionError) and number != errno.EROFS:
            raise
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        free = shutil.disk_usage(folder).free
        what = "the disk is full" if full else f"not writable ({error})"
        raise StorageError(
            f"could not write {path}: {what}; {free / 1e6:.0f} MB free at {folder}. What was saved before is intact; "
            "make room and run the same command again."
        ) from error
