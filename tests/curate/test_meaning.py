"""Duplicates by meaning, and the guard of new rows: against the plain definition, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from luthier.curate import meaning
from luthier.curate.meaning import Meaning, SameMeaning
from luthier.data.augment.base import Pair
from luthier.data.clean.base import said
from luthier.models.catalogue import entries
from tests.curate.conftest import talk
from tests.data.clean.conftest import rules

REAL = "minilm-l6-v2"
real = pytest.mark.skipif(not entries()[REAL].fetched, reason=f"luthier models fetch {REAL}")


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_each_row_is_compared_with_all_that_stay(encoder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(meaning, "BLOCK", block)
    cleaner = SameMeaning(model=str(encoder), threshold=0.9).build()
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    row, kept, expected = said(talk("q", "a"), "x:1"), [], []
    for vector in vectors:
        near = any(float(other @ vector) >= 0.9 for other in kept)
        expected.append(near)
        kept += [] if near else [vector]
    assert [cleaner.judge(row, vector) is not None for vector in vectors] == expected
    assert 1 < len(kept) < 40


def test_the_first_stays_and_other_numbers_are_another_row(encoder: Path, cleaned: Any) -> None:
    rows = [("What is 3 and 4?", "It is 7."), ("what is 3 and 4", "it is 7"), ("What is 3 and 5?", "It is 8."),
            ("What is 3 and 4?", "It is 7.")]  # fmt: skip
    found = cleaned(SameMeaning(model=str(encoder), threshold=0.5), *rows)
    assert rules(found) == ["", "same-meaning", "", "same-meaning"]
    assert found[3].drop.detail.startswith("means what rows.jsonl:1 means (cosine 1.000)")
    assert found[3].drop.threshold == 0.5


def pair(parent: tuple[str, str], candidate: tuple[str, str]) -> Pair:
    return Pair(said(talk(*parent), "x:1"), said(talk(*candidate), "x:1"))


def test_the_guard_keeps_a_band(encoder: Path) -> None:
    guard = Meaning(model=str(encoder), least=0.9, most=0.9999)
    pairs = [pair(("What is a model?", "A file."), ("What is a model?", "A file.")),
             pair(("What is a model?", "A file."), ("What is the model?", "A file."))]  # fmt: skip
    same, other = guard.build().judge(pairs)
    assert (
        same is not None and (same.rule, same.threshold) == ("nothing-new", 0.9999) and "at most 0.9999" in same.detail
    )
    assert other is None
    strict = Meaning(model=str(encoder), least=0.99999, most=1).build().judge(pairs)[1]
    assert strict is not None and strict.rule == "other-meaning" and "at least 0.99999" in strict.detail
    answers = Meaning(model=str(encoder), of="answer").build().judge(pairs)
    assert [one and one.rule for one in answers] == ["nothing-new", "nothing-new"]
    assert guard.build().judge([]) == []
    with pytest.raises(ValidationError, match=r"least \(0.9\) must be below most \(0.5\)"):
        Meaning(least=0.9, most=0.5)


@pytest.mark.slow
@real
def test_the_real_model_finds_rows_in_other_words(cleaned: Any) -> None:
    rows = [
        ("How do I reset my password?", "Open the settings and choose a new one."),
        ("How can I reset my password?", "Open the settings, then choose a new one."),
        ("How do I bake bread?", "Mix flour, water, salt and yeast, and wait."),
    ]
    assert rules(cleaned(SameMeaning(threshold=0.9), *rows)) == ["", "same-meaning", ""]
    guard = Meaning(of="question").build()
    found = guard.judge([pair(rows[0], rows[1]), pair(rows[0], rows[2]), pair(rows[0], rows[0])])
    assert [one and one.rule for one in found] == [None, "other-meaning", "nothing-new"]
