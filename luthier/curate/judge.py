"""Rows that a language model gives a score (Zheng et al. 2023, arXiv:2306.05685), by a rubric that is yours or ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.curate.writer import Writer, asking, forget, prompts
from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.errors import DataError

SCORE = re.compile(r"(?:score\s*[:=]?\s*)?(10|[1-9])(?:\.0)?(?:\s*/\s*10)?", re.IGNORECASE)


class Judge(CleanerSettings):
    """Drop rows whose answer a language model scores too low. What it does not score stays, and is counted."""

    type: Literal["judge"] = "judge"
    heavy: ClassVar[bool] = True
    writer: Writer
    """The model that judges."""
    least: Annotated[float, Field(ge=1, le=10)] = 5
    """The lowest score, of 1 to 10, with which a row stays."""
    rubric: str | None = None
    """What good answers are: a text, or a file that holds one; null: they do what was asked, rightly and clearly."""

    def build(self) -> Cleaner:
        """Load the model, or get ready to ask an endpoint.

        Raises:
            UserError: neither can be.
            DataError: the rubric's file cannot be read.
        """
        return _Judge(self, prompts()["judge"]["rubric"] if self.rubric is None else _text(self.rubric))


def _text(rubric: str) -> str:
    """A rubric that is one word long is the name of a file."""
    if len(rubric.split()) > 1 and not ("\n" not in rubric and len(rubric) < 256 and Path(rubric).is_file()):
        return rubric
    try:
        return Path(rubric).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"judge.rubric: {rubric}: cannot be read as text: {error}") from None


class _Judge(Cleaner):
    def __init__(self, settings: Judge, rubric: str) -> None:
        self.settings, self.rubric, self.engine = settings, rubric, settings.writer.open()
        self.unread: list[str] = []

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """What the model says of each row."""
        asked = [asking("judge", rubric=self.rubric, question=row.question, answer=row.answer) for row in rows]
        answers = dict(self.engine.generate(asked, self.settings.writer.sampling()))
        return [answers[place] for place in range(len(rows))]

    def judge(self, row: Said, finding: Any) -> Drop | None:
        """Whether its score is too low; remembers what is no score."""
        found, least = score(finding), self.settings.least
        if found is None:
            self.unread.append(f"of {row.where} was said {finding[:80]!r}")
        elif found < least:
            return Drop("judge", found, least, f"scored {found} of 10 by {self.settings.writer.model}")
        return None

    def close(self) -> None:
        """Let go of the model."""
        forget()

    def notes(self) -> Sequence[str]:
        """Rows that have no score, and stayed."""
        count, first = len(self.unread), "".join(self.unread[:1])
        return [f"judge: {count} rows have no score, and stay; {first}"] if count else []


def score(said: str) -> int | None:
    """The score in an answer's last line, which must hold nothing else."""
    lines = [line.strip(" \t*_`.") for line in said.strip().splitlines()]
    found = SCORE.fullmatch(lines[-1]) if lines else None
    return int(found[1]) if found else None
