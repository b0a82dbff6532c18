"""Jobs: commands of Luthier in processes of their own, one after the other, whatever becomes of whoever asked.

A job is a folder below the Luthier home: `job.json` says what is run, `log.txt` what it has said, `exit.txt` how it
ended.
Its process waits for its turn, runs the command, and holds a lock as long as it lives: so who looks at the folder knows
whether a job still runs, also after the machine was switched off. There is no server that could be lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.errors import Interrupted, UserError
from luthier.system.files import locked, write_text
from luthier.system.home import home
from luthier.system.variables import BOARD

Status = Literal["waiting", "running", "finished", "failed", "stopped", "lost"]
LOOK_SECONDS = 0.3
"""Between two looks at whether it is one's turn."""
BEGINS_SECONDS = 30.0
"""After which a process that was started must have taken its lock."""
LIVE: tuple[Status, ...] = ("waiting", "running")
TERMINAL = {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "COLUMNS": "120"}
"""What a command writes for."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command that was given to a process of its own."""

    folder: Path

    @property
    def name(self) -> str:
        """A number and what it is about; later jobs sort behind earlier ones."""
        return self.folder.name

    @property
    def arguments(self) -> list[str]:
        """Of the command `luthier`."""
        found: list[str] = self._record()["arguments"]
        return found

    @property
    def working_folder(self) -> str:
        """Where relative paths begin."""
        return str(self._record()["cwd"])

    @property
    def queued(self) -> bool:
        """Whether it waits for others, and others for it."""
        return bool(self._record()["queued"])

    @property
    def log(self) -> str:
        """What it has said."""
        with suppress(OSError):
            return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        return ""

    def tail(self, most: int) -> str:
        """The end of what it has said, of so many bytes."""
        with suppress(OSError), (self.folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read().decode(errors="replace")
        return ""

    @property
    def status(self) -> Status:
        """What has become of it; lost: its process was killed, and nothing was written down."""
        ended = self._read("exit.txt")
        if ended:
            code = int(ended)
            return "finished" if code == 0 else "stopped" if code in (Interrupted.exit_status, -15) else "failed"
        if not _held(self.folder / "alive"):
            return "lost"
        return "running" if (self.folder / "started").exists() else "waiting"

    def stop(self) -> None:
        """Ask it to save and end; one that waits, or has hardly been given, does not begin."""
        if self.status in LIVE:
            (self.folder / "stop").touch()
            if number := self._read("alive"):
                with suppress(ProcessLookupError):
                    os.killpg(int(number), signal.SIGTERM)  # the command as well as who waits for it

    def _record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "job.json").read_text(encoding="utf-8")))

    def _read(self, name: str) -> str:
        with suppress(OSError):
            return (self.folder / name).read_text(encoding="utf-8").strip()
        return ""


def jobs() -> list[Job]:
    """All jobs, the first one first."""
    return [Job(file.parent) for file in sorted((home() / "jobs").glob("*/job.json"))]


def job(name: str) -> Job:
    """The job of a name.

    Raises:
        UserError: there is none.
    """
    found = next((one for one in jobs() if one.name == name), None)
    if found is None:
        raise UserError(f"no job {name!r}; luthier jobs list shows them")
    return found


def submit(
    arguments: Sequence[str],
    *,
    about: str,
    folder: Path | None = None,
    queued: bool = True,
    secret: Mapping[str, str] | None = None,
) -> Job:
    """Run `luthier ARGUMENTS` in a board's folder, when the queued jobs before it have ended; returns at once.

    `secret` holds environment variables; they are not written down.
    """
    place = home() / "jobs"
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / "numbers"):
        last = max((int(one.name.split("-")[0]) for one in place.glob("[0-9]*-*")), default=0)
        words = "".join(c if c.isalnum() or c in "-_" else "-" for c in about)[:40]
        made = place / f"{last + 1:06d}-{words}"
        made.mkdir()
    record = {"arguments": list(arguments), "cwd": str(folder or Path.cwd()), "queued": queued}
    write_text(made / "job.json", json.dumps(record) + "\n")
    with (made / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", "luthier.drive.jobs", str(made)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | TERMINAL | ({BOARD: str(folder)} if folder else {}) | dict(secret or {}),
            start_new_session=True,  # it outlives whoever asked, and Ctrl-C does not reach it
        )
    return Job(made)


# ---- the job's own process ---------------------------------------------------------------------------------------


def work(folder: Path) -> int:
    """Wait for the turn of a job, run it, and write down how it ended."""
    mine, asked, word = Job(folder), [], folder / "stop"  # a word that came before the signal could be heard
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    with locked(folder / "alive") as alive:
        alive.write(str(os.getpid()))
        alive.flush()
        while mine.queued and not (asked or word.exists()) and any(map(_before(mine), jobs())):
            time.sleep(LOOK_SECONDS)
        code = Interrupted.exit_status
        if not (asked or word.exists()):
            (folder / "started").touch()
            command = [sys.executable, "-m", "luthier", *mine.arguments]
            code = subprocess.run(  # which holds the lock too, should this process be killed
                command, cwd=mine.working_folder, stdin=subprocess.DEVNULL, pass_fds=[alive.fileno()], check=False
            ).returncode
        write_text(folder / "exit.txt", f"{code}\n")
    return code


def _before(mine: Job) -> Callable[[Job], bool]:
    return lambda one: one.name < mine.name and one.queued and one.status in LIVE


def _held(path: Path) -> bool:
    """Whether a living process has locked a file."""
    try:
        import fcntl

        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it has hardly begun
        return time.time() - path.parent.stat().st_mtime < BEGINS_SECONDS
    return False


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
