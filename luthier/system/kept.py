"""Databases that are there for all runs: what they hold only saves time, so that they are never needed."""

from __future__ import annotations

import sqlite3
import time
import warnings
from pathlib import Path

from luthier.system.files import locked, scratch_database
from luthier.system.home import home

KEPT_DAYS = 30
"""Days after which a database is removed that no run has opened."""


def database(name: str, table: str) -> sqlite3.Connection:
    """A database that is there for all runs; where nothing can be kept, one of this process alone, with a warning."""
    folder = home() / "rows"
    file = folder / f"{name}.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # rows may be private
        with locked(folder / ".lock"):
            for old in folder.glob("*.sqlite"):
                if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                    _remove(old)
            try:
                return _opened(file, table)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                _remove(file)  # damaged; it only saved time
                return _opened(file, table)
    except (OSError, sqlite3.Error) as error:
        warnings.warn(f"{folder}: nothing can be kept for later runs ({error})", stacklevel=2)
        return scratch_database(table)


def _opened(file: Path, table: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=600)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA cache_size = -32000", table):
        connection.execute(statement)
    file.touch()
    return connection


def _remove(file: Path) -> None:
    for end in ("", "-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
