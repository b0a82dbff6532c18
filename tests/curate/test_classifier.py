"""A classifier of the user's own examples: what it learns, what it says of itself, and when it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.curate.classifier import Classifier
from luthier.errors import DataError, MissingExtra
from tests.data.clean.conftest import rules

GOOD = [{"instruction": f"What is {n}?", "output": f"The capital of France is Paris, number {n}."} for n in range(12)]
BAD = [{"instruction": f"{n}?", "output": f"!!! ??? ... ;;; !!! ??? {n}"} for n in range(12)]


@pytest.fixture
def examples(write_rows: Callable[..., Path], encoder: Path) -> Callable[..., Classifier]:
    def make(good: list[Any], bad: list[Any], **options: Any) -> Classifier:
        files = {"good": str(write_rows(good, "good.jsonl")), "bad": str(write_rows(bad, "bad.jsonl"))}
        return Classifier(model=str(encoder), **files, **options)

    return make


def test_what_is_like_the_bad_examples_goes(examples: Any, cleaned: Any) -> None:
    own = examples(GOOD, BAD)
    rows = [("What is it?", "The capital of France is Paris."), ("?", "??? !!! ... !!! ;;;")]
    found = cleaned(own, *rows)
    assert rules(found) == ["", "classifier"]
    drop = found[1].drop
    assert drop.threshold == 0.5 < drop.score
    assert (
        f"is like the rows of {own.bad}" in drop.detail and "right on 100 % of examples that it did not" in drop.detail
    )
    assert own.build().notes() == ["classifier: right on 100 % of examples that it did not learn from"]
    assert rules(cleaned(own.model_copy(update={"threshold": 0.999}), *rows)) == ["", ""]
    assert rules(cleaned(own.model_copy(update={"of": "answer"}), *rows)) == ["", "classifier"]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (GOOD, BAD[:9], r"bad\.jsonl: 9 different examples; 10 of each kind are needed"),
        (GOOD, BAD[:1] * 12, r"bad\.jsonl: 1 different examples"),
        (GOOD[::2] + BAD[::2], GOOD[1::2] + BAD[1::2], r"guessing may be right on 67 %: .* give more examples"),
        (GOOD, [*BAD, {"instruction": "q", "output": ""}], r"bad\.jsonl:13: "),
    ],
)
def test_what_cannot_be_learnt_is_refused(examples: Any, good: Any, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        examples(good, bad).build()


def test_one_file_cannot_be_both(examples: Any) -> None:
    own = examples(GOOD, BAD)
    with pytest.raises(DataError, match="is given as good and as bad"):
        own.model_copy(update={"bad": own.good}).build()
    with pytest.raises(DataError, match="no such file"):
        own.model_copy(update={"bad": "nowhere.jsonl"}).build()


def test_without_its_library(examples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match=r"classifier needs scikit-learn, .*luthier\[clean\]"):
        examples(GOOD, BAD, of="question").build()
