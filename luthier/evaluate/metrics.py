"""Metrics of a generated answer against a reference, each a part with `score` in [0, 1], higher is better.

To add one: a class with `score`, one line in `plugins.BUILT_IN["metric"]` (or an entry point `luthier.metric`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from functools import cache
from typing import Any, Literal, Protocol, runtime_checkable

from luthier.plugins import Part

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@runtime_checkable
class Metric(Protocol):
    """The config part of a metric."""

    type: str

    def score(self, answer: str, reference: str) -> float:
        """How well the answer matches the reference, from 0 to 1."""


class ExactMatch(Part):
    """1 when answer and reference are equal but for case, punctuation, articles and spaces (SQuAD's normalisation)."""

    type: Literal["exact_match"] = "exact_match"

    def score(self, answer: str, reference: str) -> float:
        """0 or 1."""
        return float(normalised(answer) == normalised(reference))


class TokenF1(Part):
    """Overlap of words (characters in Chinese and Japanese) as F1 (Rajpurkar et al. 2016, arXiv:1606.05250)."""

    type: Literal["token_f1"] = "token_f1"

    def score(self, answer: str, reference: str) -> float:
        """Harmonic mean of precision and recall of words; 1 when both are empty."""
        given, expected = words(answer), words(reference)
        if not given or not expected:
            return float(given == expected)
        common = sum((Counter(given) & Counter(expected)).values())
        return 2 * common / (len(given) + len(expected))


class ChrF(Part):
    """Character n-gram F-score (Popovic 2015, W15-3049), by sacrebleu."""

    type: Literal["chrf"] = "chrf"

    def score(self, answer: str, reference: str) -> float:
        """sacrebleu's sentence chrF2, divided by 100."""
        return float(_chrf().sentence_score(answer, [reference]).score) / 100


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    kept = "".join(
        c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    return " ".join(_ARTICLES.sub(" ", kept).split())


def words(text: str) -> list[str]:
    """Normalised words; each Chinese or Japanese character counts as one."""
    return _WIDE.sub(lambda match: f" {match[0]} ", normalised(text)).split()
