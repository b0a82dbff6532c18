"""A language model says which of two answers is better (Zheng et al. 2023, arXiv:2306.05685), in both orders.

A model that judges prefers what stands first; only what it says in both orders counts, all else is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from luthier.curate.writer import Writer, asking, forget, prompts
from luthier.evaluate.records import Record

NAME = "win_rate"
"""The metric: 1 where the second model wins, 0 where the first does, a half for a tie."""
WON = {("A", "B"): 0.0, ("B", "A"): 1.0}
"""What is said of an answer behind the base's, and before it."""


def preferred(both: Sequence[tuple[Record, Record]], judge: Writer) -> list[tuple[Record, Record]]:
    """Pairs of records, those of generated answers with a win rate more; the base's is what is left of 1.

    Raises:
        UserError: the model that judges cannot be found, loaded or reached.
    """
    asked = [
        asking("prefer", question=base.question, reference=_reference(base), first=first, second=second)
        for base, tuned in both
        if base.kind == "generate"
        for first, second in ((base.answer, tuned.answer), (tuned.answer, base.answer))
    ]
    said = dict(judge.open().generate(asked, judge.sampling())) if asked else {}
    forget()
    words = iter([verdict(said[place]) for place in range(len(asked))])
    return [
        _won(base, tuned, WON.get((next(words), next(words)), 0.5)) if base.kind == "generate" else (base, tuned)
        for base, tuned in both
    ]


def verdict(said: str) -> str:
    """A, B or nothing: the last line's only word."""
    lines = said.strip().splitlines()
    found = re.fullmatch(r"\W*(?:answer\s+)?([AB])\W*", lines[-1], re.IGNORECASE) if lines else None
    return found[1].upper() if found else ""


def _reference(record: Record) -> str:
    text: str = prompts()["prefer"]["reference"].format(text=record.reference) if record.reference else ""
    return text


def _won(base: Record, tuned: Record, share: float) -> tuple[Record, Record]:
    return (
        replace(base, counts=base.counts | {NAME: [1 - share, 1.0]}),
        replace(tuned, counts=tuned.counts | {NAME: [share, 1.0]}),
    )
