"""The lists themselves, as they are fetched."""

from __future__ import annotations

import pytest

from luthier.data.augment.facts import words_of
from luthier.data.augment.words import Chinese, English
from luthier.models.catalogue import fetch


def test_lists_hold_words() -> None:
    """No line that YAML took for something else, such as `no`."""
    for path in (("particles",), ("abbreviations",), ("refers", "en"), ("joins", "zh"), ("ordered", "en")):
        assert len(words_of(*path)) > 9 and all(word == word.strip() and word for word in words_of(*path))


@pytest.mark.slow
def test_words_of_the_real_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTHIER_HOME")
    fetch("wordnet"), fetch("cilin")
    text = "Calculate the evaluated city, provided before using a sort of quantum left."
    assert [text[start:end] for start, end, _ in English().found(text)] == ["Calculate", "evaluated", "city", "using"]
    assert [options for *_, options in English().found("They evaluated them")] == [("assessed",)]
    assert [options for *_, options in Chinese().found("他昨天到达北京大学")] == [("抵达",)]
