"""Is B better than A? Paired bootstrap over rows (Koehn 2004, W04-3250), and a verdict that may be "cannot tell"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["better", "worse", "cannot tell"]
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric of two models on the same rows: per-row sums `[n]` and what they are divided by (tokens, or 1)."""

    name: str
    base: Sequence[float]
    tuned: Sequence[float]
    per: Sequence[float]
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """The means of both models, the difference tuned - base with its 95 % interval, and what it means."""

    name: str
    base: float
    tuned: float
    low: float
    high: float
    rows: int
    verdict: Verdict

    @property
    def difference(self) -> float:
        """tuned - base."""
        return self.tuned - self.base


def compare(scores: Scores, *, seed: int = 0) -> Comparison:
    """Resample rows with replacement, both models together; the interval is the middle 95 % of the differences."""
    base, tuned, per = (np.asarray(column, dtype=np.float64) for column in (scores.base, scores.tuned, scores.per))
    low, high = interval(tuned - base, per, seed=seed)
    gain_low, gain_high = (low, high) if scores.higher_is_better else (-high, -low)
    verdict: Verdict = "better" if gain_low > 0 else "worse" if gain_high < 0 else "cannot tell"
    total = float(per.sum())
    return Comparison(scores.name, float(base.sum()) / total, float(tuned.sum()) / total, low, high, len(base), verdict)


def interval(differences: NDArray[np.float64], per: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """Percentile interval of sum(differences) / sum(per) over resampled rows; with one row, everything is possible."""
    if len(differences) < 2:
        return -np.inf, np.inf
    generator = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        picked = generator.integers(0, len(differences), len(differences))
        means[i] = differences[picked].sum() / per[picked].sum()
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [edge, 100 - edge])
    return float(low), float(high)
