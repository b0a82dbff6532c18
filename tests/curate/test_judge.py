"""Scores by a language model: what is asked, what is read as a score, what goes, and what stays unjudged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.curate.judge import Judge, score
from luthier.curate.writer import Writer
from luthier.data.clean.pipeline import Cleaning
from luthier.data.conversation import Origin, Row
from luthier.errors import DataError
from tests.data.clean.conftest import rules
from tests.endpoint import Endpoint

Tell = Callable[[Callable[[str], str]], None]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Score: 7", 7), ("score: 10", 10), ("8", 8), ("**Score: 3**", 3), ("Score: 9/10", 9), ("Score 4.", 4),
        ("It is short.\n\nScore: 2\n", 2), ("<think>10</think>\n6", 6), ("Score: 7.0", 7),
        ("", None), ("Score: 0", None), ("Score: 11", None), ("Score: 7.5", None), ("I give it 7", None),
        ("Score: N", None), ("7 or 8", None), ("Score: -3", None), ("Score: 7\nBut see above.", None), ("\n", None),
    ],
)  # fmt: skip
def test_what_is_a_score(said: str, found: int | None) -> None:
    assert score(said) == found


@given(st.text())
def test_no_text_is_misread(said: str) -> None:
    found = score(said)
    assert found is None or (1 <= found <= 10 and str(found) in said)


def test_what_goes(cleaned: Any, writer: Writer, told: Tell) -> None:
    told(lambda prompt: f"Score: {prompt.split('[Answer]')[1].split()[1]}")
    rows = [("q", "answer 3 of mine"), ("q", "answer 5 of mine"), ("q", "answer 8 of mine")]
    found = cleaned(Judge(writer=writer), *rows)
    assert rules(found) == ["judge", "", ""]
    assert found[0].drop.score == 3 and found[0].drop.threshold == 5
    assert found[0].drop.detail == "scored 3 of 10 by small"
    assert rules(cleaned(Judge(writer=writer, least=8), *rows)) == ["judge", "judge", ""]


def test_what_is_no_score_keeps_the_row_and_is_said(writer: Writer, told: Tell) -> None:
    told(lambda prompt: "Score: 1" if "bad" in prompt else "I like it!")
    rows = [Row(Origin("r", n), {"prompt": "q", "completion": a}) for n, a in enumerate(["fine", "bad", "good"], 1)]
    with Cleaning([Judge(writer=writer)]) as cleaning:
        assert rules(list(cleaning.rows(rows, "prompt-completion"))) == ["", "judge", ""]
        assert cleaning.notes() == ["judge: 2 rows have no score, and stay; of r:1 was said 'I like it!'"]


def test_what_is_asked(cleaned: Any, endpoint: Endpoint, writer: Writer, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("Only puns are good.", encoding="utf-8")
    for rubric, words in ((None, "Does the answer do what was asked?"), ("Is it {short}?", "Is it {short}?"),
                          (str(mine), "Only puns are good.")):  # fmt: skip
        cleaned(Judge(writer=writer, rubric=rubric), ("What is a river?", "Water."))
        prompt = endpoint.asked.pop()["messages"][0]["content"]
        assert words in prompt and "[Question]\nWhat is a river?\n" in prompt and "[Answer]\nWater.\n" in prompt
    with pytest.raises(DataError, match=r"judge\.rubric: nowhere\.txt: cannot be read as text"):
        Judge(writer=writer, rubric="nowhere.txt").build()
