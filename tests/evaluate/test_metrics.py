"""Metrics against known examples and the libraries that define them."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Conversation, Message
from luthier.evaluate.metrics import (
    Bleu,
    ChrF,
    ExactMatch,
    Metric,
    Rouge,
    TokenF1,
    normalised,
    rouge_tokens,
    total_of,
    words,
)
from luthier.evaluate.question import Question


def squad(answer: str, reference: str) -> tuple[float, float]:
    """Exact match and F1 as the evaluation script of SQuAD 1.1 computes them."""

    def plain(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    given_, expected = plain(answer).split(), plain(reference).split()
    common = sum((Counter(given_) & Counter(expected)).values())
    if common == 0:
        return float(plain(answer) == plain(reference)), float(given_ == expected == [])
    precision, recall = common / len(given_), common / len(expected)
    return float(plain(answer) == plain(reference)), 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("Denver Broncos", "Denver Broncos", 1, 1),
        ("The Denver Broncos!", "denver  broncos", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),
        ("Carolina Panthers", "Denver Broncos", 0, 0),
        ("in the year 1990 a theory", "theory of 1990", 0, 2 * 2 / (4 + 3)),
        ("a cat cat", "cat", 0, 2 / 3),
        ("U.S.", "us", 1, 1),
        ("", "", 1, 1),
        ("", "word", 0, 0),
        ("the", "word", 0, 0),
        ("yes", "no", 0, 0),
    ],
)
def test_known_examples(answer: str, reference: str, exact: float, f1: float) -> None:
    assert ExactMatch().score(answer, reference) == exact
    assert TokenF1().score(answer, reference) == pytest.approx(f1)
    assert squad(answer, reference) == (exact, pytest.approx(f1))


ENGLISH = st.text(alphabet="abthe n.,!' AN", max_size=30)


@given(ENGLISH, ENGLISH)
def test_equals_squad(answer: str, reference: str) -> None:
    expected = squad(answer, reference)
    assert (ExactMatch().score(answer, reference), TokenF1().score(answer, reference)) == (
        expected[0],
        pytest.approx(expected[1]),
    )


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("巴黎", "巴黎。", 1, 1),
        ("「巴黎」", "巴黎", 1, 1),
        ("法国巴黎", "巴黎", 0, 2 * 2 / (4 + 2)),
        ("北京", "巴黎", 0, 0),
        ("パリです", "パリ", 0, 2 * 2 / (4 + 2)),
        ("Paris 巴黎", "巴黎", 0, 2 * 2 / (3 + 2)),
        ("𠮷𠮷", "𠮷野", 0, 2 * 1 / (2 + 2)),
        ("서울 입니다", "서울", 0, 2 * 1 / (2 + 1)),
        ("¿París?", "parís", 1, 1),
    ],
)
def test_other_scripts(answer: str, reference: str, exact: float, f1: float) -> None:
    """Chinese and Japanese by the character, Korean by the word as it is written."""
    assert ExactMatch().score(answer, reference) == exact
    assert TokenF1().score(answer, reference) == pytest.approx(f1)


def test_words() -> None:
    assert words("The 2 cats, 你好 and an end.") == ["2", "cats", "你", "好", "and", "end"]
    assert normalised("  A  Theory; of the\tanthem ") == "theory of anthem"


TEXTS = st.text(alphabet="abc de你é.", max_size=30)


@given(TEXTS, TEXTS)
def test_chrf_equals_sacrebleu(answer: str, reference: str) -> None:
    import sacrebleu

    found = scored(ChrF(), answer, reference)
    assert found == pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score / 100) or not reference.strip()


@pytest.mark.parametrize("metric", [ExactMatch(), TokenF1(), ChrF()])
@given(answer=st.text(max_size=20), reference=st.text(max_size=20))
def test_scores_lie_between_0_and_1(metric: Metric, answer: str, reference: str) -> None:
    assert 0 <= scored(metric, answer, reference) <= 1
    assert scored(metric, answer, answer) == pytest.approx(1) or not answer.strip()


def scored(metric: Metric, answer: str, reference: str) -> float:
    """What one answer gets; 0 where the row has no reference."""
    found = metric.statistics([answer], Question(Conversation((Message(role="user", content="?"),)), reference))
    return float(metric.total(np.array(found[metric.type]))) if found else 0.0


@settings(deadline=None)  # sacrebleu and rouge-score are imported in the first case
@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=5))
@pytest.mark.parametrize("metric", [ChrF(), Bleu(), Bleu(tokenize="zh")])
def test_values_of_many_rows_are_those_of_sacrebleu(metric: Any, rows: list[tuple[str, str]]) -> None:
    counts = [metric.statistics([said], Question(Conversation(()), right))[metric.type] for said, right in rows]
    said, right = [list(side) for side in zip(*rows, strict=True)]
    value = float(total_of(metric.type)(np.asarray(counts).sum(0)))
    assert value == pytest.approx(metric.opened().corpus_score(said, [right]).score / 100, abs=1e-12)


WORDS = st.text(alphabet="ab cd1 .-'\n_ÉAB", max_size=40)


@settings(deadline=None)
@given(WORDS, WORDS.filter(str.strip))
def test_rouge_equals_rouge_score(said: str, right: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(right, said)
    found = Rouge().statistics([said], Question(Conversation(()), right))
    assert {name: counts[0] for name, counts in found.items()} == {
        name: pytest.approx(score.fmeasure) for name, score in expected.items()
    }


def test_rouge_of_chinese_is_by_the_character() -> None:
    assert rouge_tokens("GPT-4 是模型。") == ["gpt", "4", "是", "模", "型"]
    found = Rouge().statistics(["法国的巴黎", "巴黎"], Question(Conversation(()), "巴黎"))
    assert found["rouge1"][0] == pytest.approx((2 * 2 / 7 + 1) / 2) and found["rougeL"] == found["rouge1"]
    assert found["rouge2"][0] == pytest.approx((2 * 1 / 5 + 1) / 2)
