"""What answers are worth, alone and in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import luthier
from luthier.data.conversation import Conversation, Message, Task
from luthier.errors import UserError
from luthier.models.load import ModelLoader
from luthier.rollout.rewards import ExactMatch, Pattern
from tests.objectives.conftest import Seen

Make = Callable[..., Any]


def judged(reward: Any, answer: str, right: str | None = "42") -> float:
    """What one answer is worth."""
    task = Task(Conversation((Message(role="user", content="?"),)), right)
    (found,) = reward.open(ModelLoader())([task], [answer])
    return float(found)


@pytest.mark.parametrize(
    ("extract", "answer", "worth"),
    [
        (None, " 42\n", 1.0),
        (None, "It is 42", 0.0),
        (None, "", 0.0),
        (r"\d+", "First 41, then 42", 1.0),
        (r"\d+", "First 42, then 41", 0.0),
        (r"answer: (\d+)", "answer: 7 ... answer: 42.", 1.0),
        (r"(\d)(\d)", "42", 0.0),
        (r"answer: (\d+)", "42", 0.0),
    ],
)
def test_exact_match(extract: str | None, answer: str, worth: float) -> None:
    assert judged(ExactMatch(extract=extract), answer) == worth


def test_nothing_matches_a_row_without_an_answer() -> None:
    assert judged(ExactMatch(), "42", None) == 0.0


def test_pattern() -> None:
    assert judged(Pattern(pattern="^<think>.*</think>"), "<think>a\nb</think> 4") == 1.0
    assert judged(Pattern(pattern="^4$"), "42") == 0.0


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(ValidationError, match="not a regular expression: missing"):
        Pattern(pattern="(")


def test_several_rewards_and_a_file_of_the_user(online: Make, tmp_path: Path) -> None:
    """Each is called with what it may look at, and counts by its weight."""
    code = "def reward(prompt, completion, answer, row):\n    assert row['answer'] == answer and prompt\n    return 2\n"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    rewards = [{"type": "python", "path": str(tmp_path / "mine.py"), "weight": 0.5}, {"type": "regex", "pattern": ".*"}]
    watch = Seen()
    luthier.Factory().fine_tune(online("rloo", settings={"rewards": rewards}, train__max_steps=1), observers=[watch])
    assert watch.steps[0].metrics["reward"] == 2.0 and watch.steps[0].metrics["reward_std"] == 0
    assert watch.steps[0].grad_norm == 0  # all answers are worth the same


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, r"no such \.py file"),
        ("x = 1\n", "has no function 'reward'"),
        ("def reward(**_):\n    return 'good'\n", "reward returned 'good', not a number"),
    ],
)
def test_a_file_that_judges_nothing(online: Make, tmp_path: Path, code: str | None, said: str) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    rewards = [{"type": "python", "path": str(tmp_path / "mine.py")}]
    with pytest.raises(UserError, match=said):
        luthier.Factory().fine_tune(online("grpo", settings={"rewards": rewards}, train__max_steps=1))


def test_a_reward_model_judges(online: Make, run_config: Make, tmp_path: Path) -> None:
    from tests.objectives.conftest import pair_rows

    luthier.Factory().fine_tune(run_config(pair_rows(16), objective="reward", output=str(tmp_path / "judge")))
    watch = Seen()
    config = online(
        "grpo", settings={"rewards": [{"type": "model", "path": str(tmp_path / "judge")}]}, train__max_steps=2
    )
    luthier.Factory().fine_tune(config, observers=[watch])
    assert watch.steps[0].metrics["reward_std"] > 0
