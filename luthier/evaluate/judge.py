"""A language model says which of two answers is better (Zheng et al. 2023, arXiv:2306.05685), in both orders.

A model that judges prefers what stands first; only what it says in both orders counts, all else is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from luthier.curate.writer import Writer, asking, prompts
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
    asked = []
    for base, tuned in both:
        if _differ(base, tuned):
            told = {
                "question": base.question,
                "reference": base.reference and prompts()["prefer"]["reference"].format(text=base.reference),
            }
            for first, second in ((base.answer, tuned.answer), (tuned.answer, base.answer)):
                asked.append(asking("prefer", **told, first=first, second=second))
    said = dict(judge.open().generate(asked, judge.sampling())) if asked else {}
    words = iter([verdict(said[place]) for place in range(len(asked))])
    shares = [WON.get((next(words), next(words)), 0.5) if _differ(*pair) else 0.5 for pair in both]
    found = zip(both, shares, strict=True)
    return [_won(*pair, share) if pair[0].kind == "generate" else pair for pair, share in found]


def _differ(base: Record, tuned: Record) -> bool:
    """Whether there is something to judge; the same answer twice is a tie."""
    return base.kind == "generate" and base.answer != tuned.answer


def verdict(said: str) -> str:
    """A, B or nothing: the last line's only word."""
    lines = said.strip().splitlines()
    found = re.fullmatch(r"\W*(?:answer\s+)?([AB])\W*", lines[-1], re.IGNORECASE) if lines else None
    return found[1].upper() if found else ""


def _won(base: Record, tuned: Record, share: float) -> tuple[Record, Record]:
    shares = ((base, 1 - share), (tuned, share))
    base, tuned = (replace(one, counts=one.counts | {NAME: [part, 1.0]}) for one, part in shares)
    return base, tuned
