"""The output folder of a run: whether it may be used, what was asked for, and whether it is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from luthier.errors import ConfigError, DataError, OutputError
from luthier.system.files import write_text

RUN, LOCK, INPUTS = "run.json", ".lock", "inputs.json"
Files = Mapping[str, str | Iterable[str]]
"""Names of files and their texts, whole or in pieces."""
FREE_KEYS = (
    "output", "evaluate", "parallel", "train.evaluate_every", "train.save_every", "data.workers", "data.cache",
)  # fmt: skip
"""Keys that may differ when a run goes on: they change neither weights nor order."""


class RunFolder:
    """One folder, one run. `run.json` holds an id, times, the resolved config, a hash of the data, and its state."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def record(self) -> dict[str, Any] | None:
        """What `run.json` holds, or None for a fresh folder."""
        try:
            content: dict[str, Any] = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        ours = isinstance(content, dict) and {"finished", "data", "config"} <= set(content)
        return content if ours and isinstance(content["config"], dict) else None

    def require_outside(self, paths: Iterable[str | None]) -> None:
        """Refuse a folder that holds what the run is made from: beginning anew would remove it.

        Raises:
            OutputError: one of the paths stands in this folder.
        """
        own = self.path.expanduser().resolve()
        for path in paths:
            place = Path(path).expanduser() if path else None
            if place is not None and place.exists() and place.resolve().is_relative_to(own):
                raise OutputError(f"output.dir: {self.path} holds {path}, which this run needs; choose another folder")

    def require_free_or_same(
        self, config: Mapping[str, Any], data: str, *, restart: bool, allow_changes: bool = False
    ) -> list[str]:
        """Refuse a folder that holds something else; returns what is different in a run that may go on all the same.

        Raises:
            OutputError: files that are not a run, a finished run, or an unfinished run of another config or data.
        """
        self.require_free(restart=restart)
        record = self.record()
        if record is None or restart:
            return []
        changes = differences(record["config"], config)
        if record["data"] != data:
            changes.append("the data: other rows, order or rendering than before")
        if changes and not allow_changes:
            listed = "\n".join(f"  {change}" for change in changes)
            raise OutputError(
                f"output.dir: {self.path} holds an unfinished run of another setting:\n{listed}\n"
                "Put it back to continue, add --restart to begin anew or --allow-changes to go on under the new "
                "setting, or set another output.dir"
            )
        return changes

    def require_free(self, *, restart: bool) -> None:
        """Refuse a folder that no run of this kind may use, whatever its config; needs no data.

        Raises:
            OutputError: it is a file, holds files that are not a run, or a finished run.
        """
        nearest = next((place for place in (self.path, *self.path.absolute().parents) if place.exists()), self.path)
        if nearest.exists() and not nearest.is_dir():
            raise OutputError(f"output.dir: {nearest} is a file; choose another folder")
        record = self.record()
        if record is None:
            if self.path.is_dir() and any(not p.name.startswith(".") for p in self.path.iterdir()):
                raise OutputError(
                    f"output.dir: {self.path} is not empty and holds no run of Luthier; choose another folder"
                )
            return
        if restart:
            return
        if record["finished"]:
            raise OutputError(
                f"output.dir: {self.path} holds a finished run; add --restart to train again, or set another output.dir"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the folder for this process until the block ends; the system gives it back where a process is killed.

        Raises:
            OutputError: another process trains into it, or it cannot be made.
        """
        try:
            import fcntl
        except ImportError:  # not on this system
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"output.dir: {self.path} cannot be made: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"output.dir: another process trains into {self.path} just now; wait for it, or set another one"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield

    def start(self, config: Mapping[str, Any], data: str, files: Files, *, restart: bool) -> None:
        """Write what the run is; `restart` removes what an earlier run left.

        run.json stands first, and goes last: killed at any moment, the folder is still one of ours, or empty.
        """
        if restart and self.record() is not None:
            _empty(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"output.dir: {self.path} cannot be made: {error.strerror}") from None
        self._write(config, data, finished=False)
        for name, text in files.items():
            write_text(self.path / name, text)

    def started(self, files: Iterable[str]) -> bool:
        """Whether `start` came to its end."""
        return self.record() is not None and all((self.path / name).is_file() for name in files)

    def change(self, config: Mapping[str, Any], data: str, changes: Sequence[str], files: Files) -> None:
        """Go on under another setting, which is written down."""
        record = self.record() or {}
        for name, text in files.items():
            write_text(self.path / name, text)
        self._write(config, data, finished=False, changes=[*record.get("changes", []), *changes])

    def finish(self) -> None:
        """Mark the run as finished, after everything else was written.

        Raises:
            OutputError: run.json was removed while the run went on.
        """
        record = self.record()
        if record is None:
            raise OutputError(f"output.dir: {self.path / RUN} is gone; the trained model is in the folder")
        self._write(record["config"], record["data"], finished=True, changes=record.get("changes", []))

    def _write(self, config: Mapping[str, Any], data: str, *, finished: bool, changes: Sequence[str] = ()) -> None:
        before = self.record() or {}
        record: dict[str, Any] = {"id": before.get("id", uuid4().hex[:16]), "started": before.get("started", now())}
        record |= {"ended": now()} if finished else {}
        record |= {"finished": finished, "data": data, "config": config}
        record |= {"changes": list(changes)} if changes else {}  # made by --allow-changes
        write_text(self.path / RUN, json.dumps(record, indent=1) + "\n")


def _empty(folder: Path) -> None:
    """Remove what is in a folder, which itself may be a link to another disk."""
    for path in sorted((p for p in folder.iterdir() if p.name != LOCK), key=lambda path: path.name == RUN):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def now() -> str:
    """This moment, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def require_same(gather: Callable[[Any], list[Any]], config: Mapping[str, Any], data: str) -> None:
    """Refuse ranks that do not have the same config or rows.

    Raises:
        ConfigError: names the sections that differ.
        DataError: the rows do.
    """
    import torch

    def differ(mine: str) -> list[int]:
        """The ranks that have another hash than the first."""
        first, *others = gather(torch.frombuffer(bytearray.fromhex(mine), dtype=torch.uint8))
        return [rank for rank, other in enumerate(others, 1) if not torch.equal(first, other)]

    for section, settings in config.items():
        if ranks := differ(fingerprint([json.dumps(settings, sort_keys=True)])):
            raise ConfigError(f"rank {ranks[0]} was given another {section} than rank 0; start all with one config")
    if differ(data):
        raise DataError(
            "data: the processes have prepared different rows, as where each has asked a model of its own; "
            "make files of them first, with luthier data clean or luthier data augment"
        )


def fingerprint(parts: Iterable[str]) -> str:
    """One hash of many strings in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8") + b"\0")
    return digest.hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys that a run cannot change half-way, as `key: before -> after`."""
    old, new = flat(before), flat(after)
    return [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and not any(key == k or key.startswith(f"{k}.") for k in FREE_KEYS)
    ]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by their paths, `section.key`."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return result
