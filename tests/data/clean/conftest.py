"""Rows for cleaners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from luthier.data.clean.base import CleanerSettings
from luthier.data.clean.pipeline import Cleaning, Outcome
from luthier.data.conversation import Origin, Row

Run = Callable[..., list[Outcome]]


def row(question: str, answer: str) -> dict[str, str]:
    return {"prompt": question, "completion": answer}


@pytest.fixture
def cleaned() -> Run:
    """What becomes of some rows: values, or pairs of question and answer."""

    def run(cleaner: CleanerSettings | Iterable[CleanerSettings], *values: Any, **options: Any) -> list[Outcome]:
        rows = [row(*value) if isinstance(value, tuple) else value for value in values]
        cleaners = [cleaner] if isinstance(cleaner, CleanerSettings) else list(cleaner)
        numbered = [Row(Origin("rows.jsonl", line), value) for line, value in enumerate(rows, 1)]
        layout = options.pop("format", "prompt-completion")
        with Cleaning(cleaners, **options) as cleaning:
            return list(cleaning.rows(numbered, layout))

    return run


def rules(outcomes: list[Outcome]) -> list[str]:
    """The rule that dropped each row; nothing for those that are kept."""
    return [outcome.drop.rule if outcome.drop else "" for outcome in outcomes]
