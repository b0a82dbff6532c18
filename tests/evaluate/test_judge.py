"""Which answer a model prefers, asked both ways round."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.curate.writer import Writer
from luthier.data.conversation import Conversation
from luthier.errors import UserError
from luthier.evaluate.compare import judged, measured, pairs, scores_of
from luthier.evaluate.judge import NAME, preferred, verdict
from luthier.evaluate.records import Record


def record(answer: str, row: str = "1.1", kind: str = "generate") -> Record:
    return Record("f", kind, row, "f:1", "Which?", "the right one", answer, {"exact_match": [0.0, 1.0]}, {})


class Judging:
    """Prefers by a rule; keeps what it was asked."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.asked = rule, list[str]()

    def generate(self, prompts: Sequence[Conversation], sampling: Any) -> Iterator[tuple[int, str]]:
        self.asked += [prompt.messages[0].content for prompt in prompts]
        for place in reversed(range(len(prompts))):  # in no order
            first, second = re.findall(r"\[Answer [AB]\]\n(.*)\n\[End", prompts[place].messages[0].content)
            yield place, self.rule(first, second)


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(rule: Any) -> tuple[Judging, Writer]:
        engine = Judging(rule)
        monkeypatch.setattr(Writer, "open", lambda self: engine)
        return engine, Writer(model="judge")

    return made


@pytest.mark.parametrize(
    ("rule", "share"),
    [
        (lambda first, second: "A" if len(first) > len(second) else "B", 1.0),
        (lambda first, second: "A" if len(first) < len(second) else "B", 0.0),
        (lambda first, second: "A", 0.5),
        (lambda first, second: "B", 0.5),
        (lambda first, second: "tie", 0.5),
        (lambda first, second: "I cannot say.", 0.5),
    ],
)
def test_both_orders_must_agree(judging: Any, rule: Any, share: float) -> None:
    engine, writer = judging(rule)
    both = [(record("short"), record("much longer")), (record("x", kind="loss"), record("y", kind="loss"))]
    (base, tuned), untouched = preferred(both, writer)
    assert base.counts[NAME] == [1 - share, 1.0] and tuned.counts[NAME] == [share, 1.0]
    assert untouched == both[1] and len(engine.asked) == 2
    assert all("the right one" in text and "Which?" in text for text in engine.asked)


def test_the_same_answer_twice_is_a_tie_that_nobody_is_asked_about(judging: Any) -> None:
    engine, writer = judging(lambda first, second: "A")
    both = [(record("same", "1.1"), record("same", "1.1")), (record("x", "2.1"), record("y", "2.1"))]
    (base, tuned), _ = preferred(both, writer)
    assert base.counts[NAME] == tuned.counts[NAME] == [0.5, 1.0] and len(engine.asked) == 2


def test_a_judge_that_is_not_there_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("luthier.cli.compare.measure_with_bar", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    words = ["compare", "x", "y", "--data", str(tmp_path / "rows.jsonl"), "--judge"]
    for judge, said in [
        (str(tmp_path / "nowhere"), "nowhere"),
        ("{model: m, endpoint: 'https://127.0.0.1:9/v1', key_variable: NO_SUCH_KEY}", "NO_SUCH_KEY is not set"),
        ("{model: m, endpoint: 'http://example.org/v1', key_variable: NO_SUCH_KEY}", "in the open"),
    ]:
        with pytest.raises(UserError, match=said):
            CliRunner().invoke(app, [*words, judge], catch_exceptions=False)


def test_a_win_rate_is_compared_like_any_metric(judging: Any) -> None:
    _, writer = judging(lambda first, second: "A" if first == "good" else "B")
    both = [(record("bad", f"{n}.1"), record("good", f"{n}.1")) for n in range(30)]
    base, tuned = zip(*preferred(both, writer), strict=True)
    scores = {one.name: one for one in scores_of(pairs(base, tuned))}
    found = judged([measured(scores[NAME])])[0]
    assert (found.base, found.tuned, found.verdict) == (0.0, 1.0, "better")
    assert [*scores] == ["exact_match", NAME]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("A", "A"),
        ("b.", "B"),
        ("**B**", "B"),
        ("Answer A", "A"),
        ("It is good.\nA", "A"),
        ("tie", ""),
        ("AB", ""),
        ("", ""),
    ],
)
def test_verdicts(said: str, found: str) -> None:
    assert verdict(said) == found


@given(st.text())
def test_whatever_is_said_is_a_verdict(said: str) -> None:
    assert verdict(said) in ("A", "B", "")
