"""Metrics of generated answers. Each turns the answers to one question into numbers that are summed over rows.

What it does: `score` from 0 to 1, higher is better, which is averaged; or, where a metric of many rows is no mean of
theirs (BLEU), `statistics` to be summed and `total`, which makes the metric of the sums.
What it must not know: models, files, other rows.
To add one: a `Scored` with `score`, or a `Metric`; and one line in `plugins.yaml` (or an entry point
`luthier.metric`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier import plugins
from luthier.evaluate.question import Question
from luthier.plugins import Part

Sums = NDArray[np.float64]
"""Sums of statistics `[..., K]`; of those that are scores `[..., 2]`: the scores, and how many they are."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def mean(sums: Sums) -> Sums:
    """The first statistic per the second."""
    return np.divide(sums[..., 0], sums[..., 1])


def total_of(name: str) -> Callable[[Sums], Sums]:
    """How the statistics of a metric, by its name in results, become its value."""
    return plugins.load("metric", name).total if name in plugins.names("metric") else mean


class Metric(Part):
    """Base of the metrics."""

    @staticmethod
    def total(sums: Sums) -> Sums:
        """The metric, of statistics summed over rows."""
        return mean(sums)

    @abstractmethod
    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """Numbers to be summed over rows, by the name of the result; nothing where the metric does not apply."""


class Scored(Metric):
    """Base of those that give each answer a score."""

    @abstractmethod
    def score(self, answer: str, reference: str) -> float:
        """How well an answer matches the reference, from 0 to 1."""

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """The mean over answers, where the row has a reference."""
        scores = [self.score(answer, asked.reference) for answer in answers] if asked.reference.strip() else []
        return {self.type: [sum(scores) / len(scores), 1.0]} if scores else {}


class ExactMatch(Scored):
    """1 when answer and reference are equal but for case, punctuation, articles and spaces (SQuAD's normalisation)."""

    type: Literal["exact_match"] = "exact_match"

    def score(self, answer: str, reference: str) -> float:
        """0 or 1."""
        return float(normalised(answer) == normalised(reference))


class TokenF1(Scored):
    """Overlap of words (characters in Chinese and Japanese) as F1 (Rajpurkar et al. 2016, arXiv:1606.05250)."""

    type: Literal["token_f1"] = "token_f1"

    def score(self, answer: str, reference: str) -> float:
        """Harmonic mean of precision and recall of words; 1 when both are empty."""
        given, expected = words(answer), words(reference)
        if not given or not expected:
            return float(given == expected)
        return _f1(sum((Counter(given) & Counter(expected)).values()), len(given), len(expected))


class Rouge(Metric):
    """ROUGE-1, -2 and -L as F1 (Lin 2004, W04-1013), as rouge-score has them; Chinese and Japanese by the character."""

    type: Literal["rouge"] = "rouge"

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """The three of them, each as a mean over answers."""
        if not asked.reference.strip():
            return {}
        expected, found = rouge_tokens(asked.reference), [rouge_tokens(answer) for answer in answers]
        kinds = {
            "rouge1": lambda given: _ngrams(given, expected, 1),
            "rouge2": lambda given: _ngrams(given, expected, 2),
        }
        kinds["rougeL"] = lambda given: _f1(_subsequence(given, expected), len(given), len(expected))
        return {name: [sum(map(score, found)) / len(found), 1.0] for name, score in kinds.items()}


class SacreBleu(Metric):
    """Base of what sacrebleu computes: of the sums over all rows, divided by 100."""

    def statistics(self, answers: Sequence[str], asked: Question) -> dict[str, list[float]]:
        """What sacrebleu counts in the first answer."""
        if not asked.reference.strip():
            return {}
        (counts,) = self.opened()._extract_corpus_statistics(answers[:1], [[asked.reference]])
        return {self.type: [float(count) for count in counts]}

    @abstractmethod
    def opened(self) -> Any:
        """sacrebleu's own object."""


class ChrF(SacreBleu):
    """Character n-gram F-score (Popovic 2015, W15-3049): chrF2."""

    type: Literal["chrf"] = "chrf"

    def opened(self) -> Any:
        """Made once."""
        return _sacrebleu("CHRF", "")

    @staticmethod
    def total(sums: Sums) -> Sums:
        """chrF of summed counts."""
        return np.apply_along_axis(lambda one: _sacrebleu("CHRF", "")._compute_f_score(one) / 100, -1, sums)


class Bleu(SacreBleu):
    """BLEU (Papineni et al. 2002, P02-1040)."""

    type: Literal["bleu"] = "bleu"
    tokenize: Literal["13a", "zh", "char", "intl", "none"] = "13a"
    """How sacrebleu cuts words; `zh` for Chinese."""

    def opened(self) -> Any:
        """Made once."""
        return _sacrebleu("BLEU", self.tokenize)

    @staticmethod
    def total(sums: Sums) -> Sums:
        """BLEU of summed counts."""
        bleu = _sacrebleu("BLEU", "13a")
        return np.apply_along_axis(lambda one: bleu._compute_score_from_stats(list(one)).score / 100, -1, sums)


@cache
def _sacrebleu(name: str, tokenize: str) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**({"tokenize": tokenize, "force": True} if tokenize else {}))


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    kept = "".join(
        c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    return " ".join(_ARTICLES.sub(" ", kept).split())


def words(text: str) -> list[str]:
    """Normalised words; each Chinese or Japanese character counts as one."""
    return _WIDE.sub(lambda match: f" {match[0]} ", normalised(text)).split()


def rouge_tokens(text: str) -> list[str]:
    """Runs of English letters and digits in lower case, and single Chinese or Japanese characters."""
    return re.findall(rf"[a-z0-9]+|{_WIDE.pattern}", text.lower())


def _ngrams(given: Sequence[str], expected: Sequence[str], n: int) -> float:
    one, other = (Counter(zip(*(side[i:] for i in range(n)), strict=False)) for side in (given, expected))
    return _f1(sum((one & other).values()), sum(one.values()), sum(other.values()))


def _subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for token in one:
        before = row[:]
        for place, there in enumerate(other, 1):
            row[place] = before[place - 1] + 1 if token == there else max(before[place], row[place - 1])
    return row[-1]


def _f1(common: int, given: int, expected: int) -> float:
    return 2 * common / (given + expected) if common else 0.0
