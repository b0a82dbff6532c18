"""Intervals that cover what they should, and verdicts that point the right way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from luthier.evaluate import compare as module
from luthier.evaluate.compare import FEWEST_ROWS, Comparison, Scores, _student, compare, judged, mcnemar
from luthier.evaluate.compare import interval as interval_of


def interval(differences: Any, per: Any, *, seed: int) -> tuple[float, float]:
    """Of sums of differences per sums of something."""
    base = np.stack([np.zeros(len(per)), per], 1)
    return interval_of("m", base, np.stack([differences, per], 1), seed=seed)[:2]


def scores(name: str, base: Any, tuned: Any, per: Any) -> Scores:
    return Scores(name, *([[float(one), float(n)] for one, n in zip(side, per, strict=True)] for side in (base, tuned)))


DRAW: dict[str, Callable[[Any, int], Any]] = {
    "normal": lambda generator, rows: generator.normal(0, 1, rows),
    "skewed": lambda generator, rows: generator.exponential(1, rows) - 1,
    "exact match": lambda generator, rows: generator.choice([-1.0, 0.0, 1.0], rows, p=[0.2, 0.6, 0.2]),
}


@pytest.mark.parametrize("kind", DRAW)
@pytest.mark.parametrize("rows", [6, 12, 100])
def test_the_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch, kind: str, rows: int) -> None:
    """Of 300 intervals 95 % should; less than 91 % (skewed and few rows: 83 %) would be a fault of the method."""
    monkeypatch.setattr(module, "RESAMPLES", 800)
    generator = np.random.default_rng(0)
    covered, widths = 0, []
    for trial in range(300):
        low, high = interval(DRAW[kind](generator, rows), np.ones(rows), seed=trial)
        covered += low <= 0 <= high
        widths.append(high - low)
    assert (0.83 if kind == "skewed" and rows < 100 else 0.91) < covered / 300 < 0.995
    assert np.mean(widths) < 8 / math.sqrt(rows), "an interval that covers everything says nothing"


def test_the_interval_covers_a_ratio_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of token-weighted losses, where long rows improve more than short ones."""
    monkeypatch.setattr(module, "RESAMPLES", 800)
    generator = np.random.default_rng(1)
    truth = -0.03 * (50**2 + 30**2 / 3) / 50  # E[-0.03 n * n] / E[n] of uniform lengths
    covered = 0
    for trial in range(300):
        tokens = generator.uniform(20, 80, 40)
        low, high = interval(-0.03 * tokens**2 + generator.normal(0, 5, 40), tokens, seed=trial)
        covered += low <= truth <= high
    assert 0.90 < covered / 300 < 0.995


@pytest.mark.parametrize(("freedom", "value"), [(4, 2.776), (5, 2.571), (9, 2.262), (29, 2.045), (10**6, 1.960)])
def test_the_quantiles_of_student(freedom: int, value: float) -> None:
    assert _student(freedom) == pytest.approx(value, abs=0.008)


NOISE = np.random.default_rng(0).normal(0, 0.1, 50)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(("change", "verdict"), [(0.2, "more"), (-0.2, "less"), (0.0, "cannot tell")])
def test_directions(higher: bool, change: float, verdict: str) -> None:
    base = np.linspace(1, 3, 50)
    tuned = base + change + NOISE - NOISE.mean()
    found = compare(scores("m" if higher else "loss", base, tuned, [1.0] * 50))
    names = {"more": "better" if higher else "worse", "less": "worse" if higher else "better"}
    assert found.verdict == names.get(verdict, verdict)
    assert (found.base, found.tuned, found.rows) == (pytest.approx(2), pytest.approx(2 + change), 50)
    assert found.difference == pytest.approx(change, abs=1e-12) and found.low < found.difference < found.high


def test_means_are_ratios_of_sums() -> None:
    """A long row counts as much as its tokens."""
    tokens = [10.0, 1000.0, 10.0, 20.0, 30.0]
    found = compare(scores("loss", [2 * n for n in tokens], tokens, tokens))
    assert (found.base, found.tuned, found.low, found.high, found.verdict) == (2, 1, -1, -1, "better")
    uneven = compare(scores("loss", [0, 1000, 0, 0, 0], [0, 0, 0, 0, 0], tokens))
    assert uneven.base == pytest.approx(1000 / 1070)


@pytest.mark.parametrize("rows", range(FEWEST_ROWS + 2))
def test_few_rows_cannot_tell(rows: int) -> None:
    """However clear they look; a comparison of nothing is not a number."""
    found = compare(scores("m", [0.0] * rows, [0.5] * rows, [1.0] * rows))
    assert found.verdict == ("better" if rows >= FEWEST_ROWS else "cannot tell") and found.rows == rows
    assert (found.low, found.high) == ((0.5, 0.5) if rows >= FEWEST_ROWS else (-math.inf, math.inf))
    assert math.isnan(found.difference) == (rows == 0)


def test_ties_cannot_tell() -> None:
    same = [0.0, 1.0, 0.0, 1.0, 1.0, 0.5]
    found = compare(scores("m", same, same, [1.0] * 6))
    assert (found.low, found.high, found.difference, found.verdict) == (0, 0, 0, "cannot tell")


def test_one_row_that_differs_cannot_tell() -> None:
    found = compare(scores("m", [0.0] * 20, [1.0] + [0.0] * 19, [1.0] * 20))
    assert found.low == 0 and found.verdict == "cannot tell"


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_what_is_no_number_cannot_tell(strange: float) -> None:
    found = compare(scores("loss", [2.0] * 9, [1.0] * 8 + [strange], [1.0] * 9))
    assert found.verdict == "cannot tell" and found.base > 0


def test_the_same_seed_gives_the_same_interval() -> None:
    differences = np.random.default_rng(2).normal(0, 1, 30)
    first, again, other = (interval(differences, np.ones(30), seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first == pytest.approx(other, abs=0.05)


def test_many_rows_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are drawn in portions."""
    monkeypatch.setattr(module, "RESAMPLES", 20)
    low, high = interval(np.ones(2**17), np.full(2**17, 2.0), seed=0)
    assert (low, high) == (0.5, 0.5)


@pytest.mark.parametrize(("lost", "won", "chance"), [(0, 0, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (10, 10, 1.0)])
def test_mcnemar_is_the_binomial_test(lost: int, won: int, chance: float) -> None:
    from scipy.stats import binomtest

    assert mcnemar(lost, won) == pytest.approx(chance)
    if lost + won:
        assert chance == pytest.approx(binomtest(won, lost + won).pvalue)


def test_zeros_and_ones_are_judged_by_mcnemar() -> None:
    """Five rows that all got better are too few, though every resample says so."""
    found = compare(scores("acc", [0.0] * 5, [1.0] * 5, [1.0] * 5))
    assert (found.low, found.chance, found.verdict) == (1, 0.0625, "cannot tell")
    assert compare(scores("acc", [0.0] * 6, [1.0] * 6, [1.0] * 6)).verdict == "better"


def test_holm() -> None:
    """Against statsmodels' values: multipletests([0.01, 0.04, 0.03, 0.005], method="holm")."""
    given = [Comparison("m", 0, 1, 0.1, 1, 50, chance) for chance in (0.01, 0.04, 0.03, 0.005)]
    assert [one.chance for one in judged(given)] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [one.verdict for one in judged(given)] == ["better", "cannot tell", "cannot tell", "better"]
    assert judged([]) == []


@pytest.mark.parametrize("kind", DRAW)
def test_the_chance_is_that_of_the_interval(kind: str) -> None:
    """An interval ends at 0 where the chance is 5 %, and the chance is about that of the t test."""
    from scipy.stats import ttest_1samp

    generator, far = np.random.default_rng(5), 0
    for trial in range(40):
        drawn = DRAW[kind](generator, 60) + 0.25
        low, high, chance = interval_of(
            "m", np.tile([0.0, 1.0], (60, 1)), np.stack([drawn, np.ones(60)], 1), seed=trial
        )
        assert (low <= 0 <= high) == (chance > 0.05) or abs(chance - 0.05) < 0.004
        far += abs(chance - ttest_1samp(drawn, 0).pvalue) > 0.05
    assert far <= 4


def test_how_many_rows_it_would_take() -> None:
    """By simulation: with as many rows as are needed, the difference is found four times in five."""
    generator = np.random.default_rng(3)
    drawn = generator.normal(0, 1, 60)
    drawn = (drawn - drawn.mean()) / drawn.std() + 0.2
    needed = compare(scores("m", np.zeros(60), drawn, np.ones(60))).needed
    assert needed is not None and 150 < needed < 260  # (2.8 / 0.2)^2 = 196
    found = [
        compare(scores("m", np.zeros(needed), generator.normal(0.2, 1, needed), np.ones(needed))) for _ in range(60)
    ]
    assert 0.65 < sum(one.verdict == "better" for one in found) / 60 < 0.95
    assert compare(scores("m", [0.5] * 9, [0.5] * 9, [1.0] * 9)).needed is None


def test_metrics_of_sums_are_resampled_as_such() -> None:
    """BLEU of a file is no mean of its rows: the values are those of sacrebleu on all rows."""
    import sacrebleu

    from luthier.data.conversation import Conversation
    from luthier.evaluate.metrics import Bleu
    from luthier.evaluate.question import Question

    said = [f"the cat number {i} sat on a mat near the {'door' if i % 3 else 'wall'}" for i in range(30)]
    right = [f"the cat number {i} sat on the mat near the door" for i in range(30)]
    worse = [text.replace("sat on", "was at") for text in said]
    asked = [Question(Conversation(()), reference) for reference in right]
    columns = [[Bleu().statistics([a], q)["bleu"] for a, q in zip(side, asked, strict=True)] for side in (worse, said)]
    found = compare(Scores("bleu", *columns))
    values = [sacrebleu.corpus_bleu(side, [right]).score / 100 for side in (worse, said)]
    assert (found.base, found.tuned) == pytest.approx(values)
    assert found.low < found.difference < found.high and found.verdict == "better"
