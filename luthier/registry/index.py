"""The index of runs and versions: one sqlite file in Luthier's folder, which any number of processes share.

A version is registered by one transaction: its files are copied before it under a name that counts for nothing, and
get their place within it. So it is there whole or not at all, whenever a process is killed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, StorageError
from luthier.plugins import suggestion
from luthier.registry.names import SCHEME, Name, parse, require_alias, require_name
from luthier.registry.origin import Origin, origin_of
from luthier.registry.store import stage
from luthier.system.files import PREFIX, locked, refused_writes_of, sha256_of, sync_folder
from luthier.system.home import home
from luthier.tracking.run import RunFolder, fingerprint, now

TABLES = """
CREATE TABLE run (id TEXT PRIMARY KEY, ended TEXT, told TEXT);
CREATE TABLE version (name TEXT, number INTEGER, run TEXT, deleted TEXT, told TEXT, PRIMARY KEY (name, number));
CREATE INDEX version_of_run ON version (run);
CREATE TABLE alias (id INTEGER PRIMARY KEY, name TEXT, alias TEXT, number INTEGER);
"""
"""An alias stands for the version of its newest line; older ones are what it stood for before."""
NOW = "SELECT name, alias, number FROM alias WHERE id IN (SELECT MAX(id) FROM alias GROUP BY name, alias)"
LIVING = "SELECT told FROM version WHERE deleted = ''"


@dataclass(frozen=True, slots=True)
class Version:
    """A model that is kept. `files` are sha256 sums by name; `parents` are versions, or models that are none."""

    name: str
    number: int
    created: str
    made: str
    parents: Sequence[str]
    run: str
    files: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What it is called everywhere."""
        return f"{SCHEME}{self.name}/{self.number}"

    @property
    def weights(self) -> str:
        """One hash of all weights: equal where they are."""
        return fingerprint(f"{n} {s}" for n, s in sorted(self.files.items()) if n.endswith((".safetensors", ".gguf")))


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: where its folder was, its resolved config, and what was measured."""

    id: str
    ended: str
    folder: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]


class Registry:
    """Runs, versions and aliases; every method opens the index, and closes it."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home() / "registry"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The index within one transaction, which others wait for.

        Raises:
            StorageError: it can be neither read nor made.
        """
        file = self.root / "index.sqlite"
        try:
            with refused_writes_of(file):
                self.root.mkdir(parents=True, exist_ok=True, mode=0o700)  # rows and metrics may be private
                with locked(self.root / ".lock"):  # several making a new database at once is what sqlite cannot
                    connection = sqlite3.connect(file, isolation_level=None, timeout=600)
                    connection.execute("PRAGMA journal_mode = WAL")
                    if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        connection.executescript(f"BEGIN; {TABLES} COMMIT;")
            with closing(connection), connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            raise StorageError(f"{file}: {error}; nothing was changed") from error

    # ---- versions -------------------------------------------------------------------------------------------------

    def register(
        self, source: str, name: str, *, tags: Mapping[str, str] | None = None, origin: Origin | None = None
    ) -> Version:
        """Keep what a folder, or a run by its id, holds as the next version of a model.

        Raises:
            ModelError: the name may not be one, or there is no such run.
            OutputError: an unfinished run, or a folder with links or without files.
        """
        require_name(name)
        folder = Path(source).expanduser()
        folder = folder if folder.exists() else Path(self.run(source).folder)
        origin = origin or origin_of(folder)
        staged, sums = stage(self.root, folder)
        try:
            with self._open() as index:
                last = index.execute("SELECT MAX(number) FROM version WHERE name = ?", (name,)).fetchone()[0]
                parents = [_named(index, parent) for parent in origin.parents]
                version = Version(
                    name, (last or 0) + 1, now(), origin.made, parents, origin.run, sums, origin.metrics, tags or {}
                )
                place = self.folder(version)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)  # of a registration that was killed, since it has no line
                staged.rename(place)
                sync_folder(place.parent)
                line = (name, version.number, version.run, "", json.dumps(asdict(version)))
                index.execute("INSERT INTO version VALUES (?, ?, ?, ?, ?)", line)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return version

    def folder(self, version: Version) -> Path:
        """Where the files of a version stand, to be used like any model folder, and not to be changed."""
        return self.root / "versions" / version.name / str(version.number)

    def versions(self, name: str | None = None, *, limit: int = -1) -> list[Version]:
        """The newest first, of one model or of all."""
        chosen = f"{LIVING} AND (?1 IS NULL OR name = ?1) ORDER BY rowid DESC LIMIT ?2"
        with self._open() as index:
            return [_version(row) for row in index.execute(chosen, (name, limit))]

    def models(self) -> list[tuple[str, int, int]]:
        """Names, how many versions each has, and its newest."""
        with self._open() as index:
            counted = "SELECT name, COUNT(*), MAX(number) FROM version WHERE deleted = '' GROUP BY name"
            return list(index.execute(counted))

    def version(self, text: str) -> Version:
        """The version that a name stands for.

        Raises:
            ModelError: the name is none, or nothing has it; says what there is.
        """
        with self._open() as index:
            return _find(index, parse(text))

    def aliases(self) -> list[tuple[str, str, int]]:
        """Names of models with their aliases and the numbers of versions that these stand for now."""
        with self._open() as index:
            return list(index.execute(NOW))

    def promote(self, text: str, alias: str) -> Version:
        """Let an alias stand for a version."""
        require_alias(alias)
        with self._open() as index:
            version = _find(index, parse(text))
            line = (version.name, alias, version.number)
            index.execute("INSERT INTO alias (name, alias, number) VALUES (?, ?, ?)", line)
        return version

    def rollback(self, text: str) -> Version:
        """Let an alias stand for the version that it stood for before; returns that.

        Raises:
            ModelError: it stood for none before.
        """
        asked = parse(text)
        with self._open() as index:
            current = _find(index, asked)
            before = "SELECT MAX(id) FROM alias WHERE name = ? AND alias = ? AND number != ?"
            mine = (asked.name, asked.alias)
            (earlier,) = index.execute(before, (*mine, current.number)).fetchone()
            if earlier is None:
                raise ModelError(
                    f"{text}: stands for {current.uri}, and for nothing before; an alias is {SCHEME}NAME@ALIAS"
                )
            index.execute("DELETE FROM alias WHERE name = ? AND alias = ? AND id > ?", (*mine, earlier))
            return _find(index, asked)

    def delete(self, text: str) -> Version:
        """Remove a version and its files; its number is never given again.

        Raises:
            ModelError: an alias stands for it, or another version was made of it.
        """
        with self._open() as index:
            version = _find(index, parse(text))
            place = (version.name, version.number)
            held = [f"@{alias} stands for it" for name, alias, number in index.execute(NOW) if (name, number) == place]
            held += [
                f"{one.uri} was made of it"
                for one in map(_version, index.execute(LIVING))
                if version.uri in one.parents
            ]
            if held:
                raise ModelError(f"{version.uri}: not deleted, since {'; '.join(held)}")
            index.execute("UPDATE version SET deleted = ? WHERE name = ? AND number = ?", (now(), *place))
            index.execute("DELETE FROM alias WHERE name = ? AND number = ?", place)
        shutil.rmtree(self.folder(version), ignore_errors=True)
        return version

    def gc(self) -> tuple[int, int]:
        """Remove files that no version holds, and what killed commands left; returns how many, and their bytes."""
        import psutil

        with self._open() as index:  # nobody registers meanwhile
            kept = {self.folder(_version(row)) for row in index.execute(LIVING)}
            left = {
                path for path in self.root.glob(f"{PREFIX}*")
                if not psutil.pid_exists(int(path.name.removeprefix(PREFIX).partition("-")[0]))
            }  # fmt: skip
            for folder in {*left, *self.root.glob("versions/*/*")} - kept:
                shutil.rmtree(folder)
            loose = [path for path in (self.root / "files").glob("*") if path.stat().st_nlink == 1]
            size = sum(path.stat().st_size for path in loose)
            for path in loose:
                path.unlink()
        return len(loose), size

    def damaged(self, version: Version) -> list[str]:
        """The files of a version that are not as they were registered."""
        place = self.folder(version)
        return [
            name for name, sha256 in version.files.items()
            if not (place / name).is_file() or sha256_of(place / name) != sha256
        ]  # fmt: skip

    # ---- runs -----------------------------------------------------------------------------------------------------

    def remember(self, folder: Path) -> None:
        """Keep a finished run in the index."""
        record = RunFolder(folder).record() or {}
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        run = Run(record["id"], record["ended"], str(folder.resolve()), record["config"], metrics)
        with self._open() as index:
            index.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?)", (run.id, run.ended, json.dumps(asdict(run))))

    def runs(self, limit: int = -1) -> list[Run]:
        """Finished runs, the newest first."""
        with self._open() as index:
            told = index.execute("SELECT told FROM run ORDER BY ended DESC LIMIT ?", (limit,))
            return [Run(**json.loads(text)) for (text,) in told]

    def run(self, text: str) -> Run:
        """A run by its id, or the beginning of it.

        Raises:
            ModelError: there is none, or several begin so.
        """
        found = [run for run in self.runs() if text and run.id.startswith(text)]
        if len(found) != 1:
            what = "several runs have ids that begin so" if found else "neither a folder nor the id of a run"
            raise ModelError(f"{text!r}: {what}; see luthier runs list")
        return found[0]


def place_of(path: str) -> Path:
    """Where a folder or file is that may be named as a version of the registry.

    Raises:
        ModelError: no such version.
    """
    if not path.startswith(SCHEME):
        return Path(path).expanduser()
    return Registry().folder(Registry().version(path))


def _find(index: sqlite3.Connection, asked: Name) -> Version:
    """One version that is there."""
    aliases = {alias: number for name, alias, number in index.execute(NOW) if name == asked.name}
    number = aliases.get(asked.alias, asked.version)
    row = index.execute(f"{LIVING} AND name = ? AND number = ?", (asked.name, number)).fetchone()
    if row is not None:
        return _version(row)
    numbers = dict(index.execute("SELECT name, MAX(number) FROM version WHERE deleted = '' GROUP BY name"))
    given = f"{SCHEME}{asked.name}" + (f"@{asked.alias}" if asked.alias else f"/{asked.version}")
    if asked.name in numbers:
        known = "".join(f", @{alias} is {number}" for alias, number in aliases.items())
        raise ModelError(f"{given}: no such version; the newest is {numbers[asked.name]}{known}")
    there = suggestion(asked.name, numbers) if numbers else "register one: luthier models register RUN --name NAME"
    raise ModelError(f"{given}: no such model is registered; {there}")


def _named(index: sqlite3.Connection, parent: str) -> str:
    """A parent as the version that it is, where it was registered before; else as it was given."""
    run = (RunFolder(Path(parent).expanduser()).record() or {}).get("id", "")
    row = index.execute(f"{LIVING} AND run = ? AND run != '' ORDER BY rowid DESC LIMIT 1", (run,)).fetchone()
    return _version(row).uri if row and not parent.startswith(SCHEME) else parent


def _version(row: Sequence[Any]) -> Version:
    return Version(**json.loads(row[0]))
