"""Guards that need no model: the same facts in both, and nothing that is almost there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from luthier.data.augment.base import Guard, GuardSettings, Pair, compared
from luthier.data.augment.facts import facts
from luthier.data.clean.base import Drop, Of, Said
from luthier.data.clean.near import Index


class Facts(GuardSettings, Guard):
    """The same numbers, names, code, addresses and placeholders, as often. Names of scripts without capitals pass."""

    type: Literal["facts"] = "facts"

    def build(self) -> Guard:
        """Nothing to load."""
        return self

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Drop | None]:
        """What is lost or added of each candidate."""
        return [self._judged(pair) for pair in pairs]

    def _judged(self, pair: Pair) -> Drop | None:
        before, after = facts(pair.parent.text), facts(pair.candidate.text)
        wrong = (before - after) + (after - before)
        if not wrong:
            return None
        kind, text = min(wrong)
        how = "lacks" if before[kind, text] > after[kind, text] else "adds"
        return Drop("facts", float(wrong.total()), 0.0, f"{how} the {kind} {text!r}")


class NearDuplicates(GuardSettings):
    """Nothing that is almost what a row, trained on or held out, or an earlier candidate says."""

    type: Literal["near-duplicates"] = "near-duplicates"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of shingles in common (Jaccard similarity) from which on a candidate goes: a word in a hundred."""
    of: Of = "question"
    """What is compared; rows without turns are compared whole."""

    def build(self) -> Guard:
        """Load rensa."""
        return _NearDuplicates(self)


class _NearDuplicates(Guard):
    def __init__(self, settings: NearDuplicates) -> None:
        self.of, self.index = settings.of, Index(settings.threshold)

    def know(self, rows: Sequence[Said]) -> None:
        """Remember what is there."""
        for row, sketch in zip(rows, self.index.sketches([compared(row, self.of) for row in rows]), strict=True):
            self.index.add(row.where, sketch)

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Drop | None]:
        """The first of candidates that are alike passes."""
        sketches = self.index.sketches([compared(pair.candidate, self.of) for pair in pairs])
        return [self.index.first(pair.candidate.where, sketch) for pair, sketch in zip(pairs, sketches, strict=True)]
