"""An augmenter makes new rows out of those that are there; a guard says which of them must not be used, and why.

What they do: `Augmenter.make` gives candidates, each a changed copy of a row (or of several); `Guard.judge` compares
each with what it was made from. Both are deterministic.
What they must not know: files, layouts, tokenizers, configs, sides; they are only ever shown rows that are trained on.
How to add one: one file here with a settings class and what it builds, one line under `augmenter` or `guard` in
`plugins.yaml` (or an entry point `luthier.augmenter`, `luthier.guard` in a package of your own).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, Protocol

from pydantic import Field

from luthier.data.clean.base import Drop, Of, Said
from luthier.data.conversation import Content
from luthier.plugins import Part


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new row: the number of the row it was made from, what it says, and how; `others` are rows it holds besides."""

    parent: int
    content: Content
    method: str
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """What a candidate says, and what the rows that it was made from say together; `parent.where` is the file:line."""

    parent: Said
    candidate: Said


def compared(row: Said, of: Of) -> str:
    """What guards compare of a row: rows without turns have no parts, and are compared whole."""
    return str(getattr(row, of)) or row.text


class Augmenter(Protocol):
    """One augmenter at work."""

    def make(self, rows: Sequence[Content]) -> Iterator[Candidate]:
        """New rows, those of each row together and in the order of the rows."""


class Guard(ABC):
    """One guard at work. It sees what the guards before it let pass, in order."""

    def know(self, rows: Sequence[Said]) -> None:  # noqa: B027 - not every guard needs to
        """Rows that are there, before anything is judged; may come in several calls."""

    @abstractmethod
    def judge(self, pairs: Sequence[Pair]) -> Sequence[Drop | None]:
        """For each candidate of a batch, why it must not be used; None for those that pass."""


class AugmenterSettings(Part):
    """Settings of a kind of augmenter."""

    copies: Annotated[int, Field(ge=1, le=100)] = 1
    """Most new rows made of each row."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed makes other rows."""

    @abstractmethod
    def build(self) -> Augmenter:
        """The augmenter, its libraries and data loaded.

        Raises:
            MissingExtra: a library is not installed.
            DataError: data that it needs was not fetched.
        """


class GuardSettings(Part):
    """Settings of a kind of guard."""

    @abstractmethod
    def build(self) -> Guard:
        """The guard, its libraries loaded.

        Raises:
            MissingExtra: one is not installed.
        """


def chance(seed: int, content: Content, copy: int) -> Random:
    """The random numbers of one copy of a row: its own, whatever other rows there are and in which order."""
    return Random(f"{seed}:{content.content_id}:{copy}")
