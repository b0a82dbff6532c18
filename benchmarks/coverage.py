"""Do intervals of `luthier compare` cover what they should? `python -m benchmarks.coverage [--trials 2000]`.

Pairs of models whose difference is known are simulated: scores that are 0 or 1, scores between, and losses per token of
rows of unequal length, on 40 and on 200 rows. A 95 % interval should hold the truth in 93 to 97 % of trials. Then
nothing differs: the verdict may be "better" in at most 5 % of trials, for one metric and for eight looked at together,
where one false verdict among the eight counts. The command fails otherwise. Each interval is made of 2,000 resamples,
where `luthier compare` takes 10,000.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from benchmarks.common import machine, print_table
from luthier.evaluate import compare
from luthier.evaluate.compare import Scores, judged, measured

Pair = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator, int, float], Pair]


def zero_or_one(chance: np.random.Generator, rows: int, gain: float) -> Pair:
    """Right or wrong: questions of unequal difficulty, of which the other model gets `gain` more right in the mean."""
    hard, luck = chance.beta(2, 2, rows), chance.uniform(0, 1, rows)
    other = np.where(chance.uniform(0, 1, rows) < 0.5, luck, chance.uniform(0, 1, rows))  # half of the luck is shared
    shifted = np.clip(hard + gain, 0, 1)
    return _per((luck < hard).astype(float), np.ones(rows)), _per((other < shifted).astype(float), np.ones(rows))


def between(chance: np.random.Generator, rows: int, gain: float) -> Pair:
    """Scores such as F1: many zeros and ones, and what is between."""
    base = np.clip(chance.normal(0.5, 0.4, rows), 0, 1)
    return _per(base, np.ones(rows)), _per(base + gain + chance.normal(0, 0.2, rows), np.ones(rows))


def per_token(chance: np.random.Generator, rows: int, gain: float) -> Pair:
    """Losses: the sum over a row's tokens, per all tokens; long rows count more."""
    tokens = np.round(chance.lognormal(4, 0.6, rows)) + 1
    base = tokens * chance.gamma(8, 0.2, rows)
    noise = chance.normal(0, 0.15, rows) * tokens
    return _per(base, tokens), _per(base + gain * tokens + noise, tokens)


def _per(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.stack([sums, counts], axis=1)


def truth(draw: Draw, gain: float) -> float:
    """The difference in a population that is as good as infinite."""
    base, other = draw(np.random.default_rng(99), 2_000_000, gain)
    return float(other[:, 0].sum() / other[:, 1].sum() - base[:, 0].sum() / base[:, 1].sum())


DRAWS: dict[str, tuple[Draw, float]] = {
    "0 or 1": (zero_or_one, 0.05), "between 0 and 1": (between, 0.03), "loss per token": (per_token, -0.05)
}  # fmt: skip
ROWS = (40, 200)
compare.RESAMPLES = 2_000


def compared(name: str, draw: Draw, rows: int, gain: float, seed: int) -> tuple[float, float, list[float]]:
    """An interval, and its chance with the difference."""
    base, other = draw(np.random.default_rng(seed), rows, gain)
    found = measured(Scores("loss" if "loss" in name else "m", base.tolist(), other.tolist()), seed=seed)
    return found.low, found.high, [found.chance, found.difference]


def covered(trials: int, job: tuple[str, int]) -> list[object]:
    """How many intervals of a kind of score hold the truth, and how wide they are."""
    name, rows = job
    draw, gain = DRAWS[name]
    known, hits, widths = truth(draw, gain), 0, []
    for seed in range(trials):
        low, high, _ = compared(name, draw, rows, gain, seed)
        hits += low <= known <= high
        widths.append(high - low)
    return [name, rows, f"{known:+.4f}", f"{100 * hits / trials:.1f} %", float(np.mean(widths))]


def unchanged(trials: int, job: tuple[str, int]) -> list[object]:
    """How often "better", and "better or worse", is said where nothing differs: alone, and of eight metrics."""
    name, rows = job
    draw, _ = DRAWS[name]
    alone = together = 0
    for seed in range(trials):
        found = []
        for metric in range(8):
            base, other = draw(np.random.default_rng((seed, metric)), rows, 0.0)
            found.append(measured(Scores("m", base.tolist(), other.tolist()), seed=seed))
        alone += judged(found[:1])[0].verdict == "better"
        together += any(one.verdict == "better" for one in judged(found))
    return [name, rows, f"{100 * alone / trials:.1f} %", f"{100 * together / trials:.1f} %"]


def results(work: Callable[[int, tuple[str, int]], list[object]], trials: int, jobs: int) -> Iterator[list[object]]:
    """A line for each kind of score and number of rows."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(partial(work, trials), [(name, rows) for name in DRAWS for rows in ROWS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    print(f"{machine()}; {given.trials} trials\n")
    lines = list(results(covered, given.trials, given.jobs))
    print_table(["scores", "rows", "true difference", "95 % intervals that hold it", "mean width"], lines)
    print()
    false = list(results(unchanged, given.trials // 4, given.jobs))
    print_table(["scores, nothing differs", "rows", "false better, one metric", "of eight metrics, any"], false)
    outside = [line for line in lines if not 93 <= float(str(line[3]).split()[0]) <= 97]
    wrong = [line for line in false for cell in line[2:] if float(str(cell).split()[0]) > 5]
    if outside or wrong:
        raise SystemExit(f"outside: {outside}, {wrong}")


if __name__ == "__main__":
    main()
