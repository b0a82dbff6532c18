"""The errors Luthier raises, one tree.

    LuthierError                 anything the user should read as one message
    ├── UserError                the user can mend it; exit status 2
    │   ├── ConfigError          a key, kind or value of the config (holds every problem found)
    │   ├── DataError            a file that cannot be read, or holds nothing usable
    │   │   ├── RowError         one row, named by file and line
    │   │   └── AmbiguousFormat  a file that two formats could read
    │   ├── TemplateError        a chat template that cannot be masked exactly
    │   ├── ModelError           a model that cannot be found or loaded
    │   ├── CheckFailed          `luthier check` found what must not be trained
    │   ├── OutputError          an output folder that holds another run
    │   └── MissingExtra         an optional library; says the one command that installs it
    ├── StorageError             disk full or not writable; what was saved is safe
    ├── CheckpointError          a checkpoint that cannot be read
    ├── TrainingError            loss, gradients or weights that are not finite
    │   ├── OutOfMemory          says what is held, and what would help
    │   └── ProcessLost          another process of the run hangs, and which, or has ended, of which it says nothing
    └── Interrupted              stopped by the user after a checkpoint; exit status 130

A message says where, what was given, what is allowed, and what to do next. `exit_status` is what the command
line returns; nothing else in the tree depends on the interface that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class LuthierError(Exception):
    """An error with a message written for the user; interfaces show it without a traceback."""

    exit_status = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Comes whole out of another process, whatever its class is made from."""
        return BaseException.__new__, (type(self), *self.args), self.__dict__


class UserError(LuthierError):
    """A mistake the user can mend."""

    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: the key path, what is wrong with it, and what to write instead."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(UserError):
    """One or more problems of a config file or an override."""

    def __init__(self, problems: Sequence[Problem] | str, *, source: str = "config") -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        self.source = source
        lines = "\n".join(f"  {p}" for p in self.problems)
        super().__init__(f"{source}:\n{lines}" if len(self.problems) > 1 else f"{source}: {self.problems[0]}")


class DataError(UserError):
    """A data file that cannot be read, or a data set with nothing in it."""


class RowError(DataError):
    """One row that cannot be used. `reason` is a short stable name, `detail` a sentence."""

    def __init__(self, where: object, reason: str, detail: str) -> None:
        self.where, self.reason, self.detail = str(where), reason, detail
        super().__init__(f"{where}: {detail}")


class AmbiguousFormat(DataError):
    """More than one format reads the file; the config must say which."""


class TemplateError(UserError):
    """A chat template whose loss mask cannot be made exactly."""


class ModelError(UserError):
    """A model that cannot be found, or must not be loaded."""


class CheckFailed(UserError):
    """The pre-flight check refused to train."""


class OutputError(UserError):
    """The output folder already holds something else."""


class MissingExtra(UserError):
    """A library that an option needs and that is not installed."""

    def __init__(self, option: str, library: str, extra: str) -> None:
        super().__init__(f"{option} needs {library}, which is not installed: pip install 'luthier[{extra}]'")


class StorageError(LuthierError):
    """The disk refused a write. Files saved before are intact."""


class CheckpointError(LuthierError):
    """A checkpoint that is damaged or belongs to another run."""


class CertificateError(LuthierError):
    """A model that does not answer as it did in training, or whose files are others than those certified."""


class TrainingError(LuthierError):
    """Training cannot go on (loss or gradients not finite)."""


class ProcessLost(TrainingError):
    """Another process of the run does not answer; empty where it has ended, as it or its launcher says why."""


class OutOfMemory(TrainingError):
    """Memory does not suffice, however small the micro-batches are."""


class Interrupted(LuthierError):
    """The user asked to stop; a checkpoint was written first."""

    exit_status = 130
