"""Is B better than A? Paired bootstrap over rows (Koehn 2004, W04-3250), and a verdict that may be "cannot tell".

Metrics that are 0 or 1 in every row are judged by McNemar's exact test (1947, doi:10.1007/BF02295996). Of several
metrics, models and slices looked at together, Holm's correction (1979) keeps the chance of a single false verdict at
5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.evaluate.metrics import total_of
from luthier.evaluate.records import Record

Verdict = Literal["better", "worse", "cannot tell"]
RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
"""Chance with which a difference should be found, where it is said how many rows that would take."""
FEWEST_ROWS = 5
"""With fewer rows nothing can be told: four rows agree by chance in one of eight comparisons."""
LOWER = frozenset({"loss"})
"""Metrics of which less is better."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric of two models on the same rows: statistics `[n, K]` each, whose sums make its value."""

    name: str
    base: Sequence[Sequence[float]]
    tuned: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The values of both models, the difference tuned - base with its 95 % interval, and what it means.

    `chance` is how likely a difference as large is where there is none; Holm's, where several are `judged` together.
    `needed` is about how many rows would tell a difference of this size.
    """

    name: str
    base: float
    tuned: float
    low: float
    high: float
    rows: int
    chance: float
    verdict: Verdict = "cannot tell"

    @property
    def difference(self) -> float:
        """tuned - base."""
        return self.tuned - self.base

    @property
    def needed(self) -> int | None:
        """Rows with which such a difference would be found four times in five; None where there is none to be seen."""
        if not (math.isfinite(self.low) and self.difference and self.high > self.low):
            return None
        normal = NormalDist().inv_cdf
        wide = (self.high - self.low) / 2 / normal((1 + LEVEL) / 2) * (normal((1 + LEVEL) / 2) + normal(POWER))
        needed = self.rows * (wide / self.difference) ** 2
        return int(float(f"{max(needed, 1):.2g}"))


def compare(scores: Scores, *, seed: int = 0) -> Comparison:
    """One comparison alone: resample rows with replacement, both models together."""
    return judged([measured(scores, seed=seed)])[0]


def judged(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that are looked at together, each with Holm's chance and a verdict."""
    adjusted, most = list(comparisons), 0.0
    for rank, i in enumerate(sorted(range(len(adjusted)), key=lambda i: comparisons[i].chance)):
        one = comparisons[i]
        most = min(max(most, one.chance * (len(adjusted) - rank)), 1.0)
        gain = -one.difference if one.name in LOWER else one.difference
        told = most <= 1 - LEVEL and not one.low <= 0 <= one.high
        adjusted[i] = replace(
            one, chance=most, verdict="cannot tell" if not told else "better" if gain > 0 else "worse"
        )
    return adjusted


def measured(scores: Scores, *, seed: int = 0) -> Comparison:
    """A comparison without a verdict."""
    base, tuned = (np.asarray(column, dtype=np.float64) for column in (scores.base, scores.tuned))
    if not len(base):
        return Comparison(scores.name, math.nan, math.nan, -math.inf, math.inf, 0, 1.0)
    low, high, chance = interval(scores.name, base, tuned, seed=seed)
    pair = np.stack([base, tuned])
    if np.isin(pair[..., 0], (0, 1)).all() and pair.shape[-1] == 2 and (pair[..., 1] == 1).all():
        chance = mcnemar(int((base[:, 0] > tuned[:, 0]).sum()), int((base[:, 0] < tuned[:, 0]).sum()))
    before, after = (float(total_of(scores.name)(column.sum(0))) for column in (base, tuned))
    return Comparison(scores.name, before, after, low, high, len(base), chance)


def mcnemar(lost: int, won: int) -> float:
    """How likely so many rows of those that changed went one way, where both are as likely (exact, two-sided)."""
    changed = lost + won
    return min(2 * float(sum(math.comb(changed, k) for k in range(min(lost, won) + 1)) / 2**changed), 1.0)


def interval(name: str, base: Any, tuned: Any, *, seed: int) -> tuple[float, float, float]:
    """Interval of the difference of a metric over resampled rows, and how likely one as large is where there is none.

    Percentiles, set further apart for few rows as Student's t is wider than the normal distribution (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789): without that, ten rows cover the truth in 90 % of cases only. Everything is
    possible with too few rows, and with any that are no numbers. The chance is that of the interval which ends at 0.
    """
    rows, total = len(base), total_of(name)
    both: NDArray[np.float64] = np.concatenate([base, tuned], axis=1)
    if rows < FEWEST_ROWS or not np.isfinite(both).all():
        return -math.inf, math.inf, 1.0
    generator, found = np.random.Generator(np.random.PCG64(seed)), []
    for start in range(0, RESAMPLES, size := max(1, 2**20 // rows)):
        count = min(size, RESAMPLES - start)
        picked = generator.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        sums = np.bincount(picked.ravel(), minlength=count * rows).reshape(count, rows) @ both
        found.append(total(sums[:, base.shape[1] :]) - total(sums[:, : base.shape[1]]))
    differences = np.concatenate(found)
    edge = _edge(1 - LEVEL, rows)
    low, high = np.percentile(differences, [100 * edge, 100 - 100 * edge])
    beyond = min((differences <= 0).mean(), (differences >= 0).mean()) + 1 / RESAMPLES
    narrow, wide = 0.0, 1.0  # the chance at which an edge is where 0 is
    for _ in range(40):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if _edge(middle, rows) < beyond else (narrow, middle)
    return float(low), float(high), wide


def _edge(chance: float, rows: int) -> float:
    """The share of resamples beyond one end of an interval that misses with this chance."""
    return NormalDist().cdf(-((rows / (rows - 1)) ** 0.5) * _student(rows - 1, chance))


def _student(freedom: int, chance: float = 1 - LEVEL) -> float:
    """The quantile of Student's t beyond which, on both sides, this chance lies.

    By its expansion around the normal one (Abramowitz & Stegun 26.7.5).
    """
    z, v = NormalDist().inv_cdf(1 - max(chance, 1e-12) / 2), float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


# ---- records of two models -----------------------------------------------------------------------------------------


def pairs(base: Sequence[Record], tuned: Sequence[Record]) -> list[tuple[Record, Record]]:
    """What was found of the rows that both models can use, of losses only where both see the same tokens everywhere."""
    there = {(record.kind, record.row): record for record in tuned}
    both = [(one, there[one.kind, one.row]) for one in base if (one.kind, one.row) in there]
    unequal = {one.kind for one, other in both if one.check != other.check}
    return [(one, other) for one, other in both if one.kind not in unequal]


def scores_of(both: Sequence[tuple[Record, Record]]) -> list[Scores]:
    """Each metric of two models, over the rows of which both have it."""
    found: dict[str, tuple[list[list[float]], list[list[float]]]] = {}
    for one, other in both:
        for name in one.counts.keys() & other.counts.keys():
            base, tuned = found.setdefault(name, ([], []))
            base.append(one.counts[name])
            tuned.append(other.counts[name])
    names = dict.fromkeys(name for one, _ in both for name in one.counts)
    return [Scores(name, *found[name]) for name in names if name in found]
