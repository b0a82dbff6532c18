"""Answers to held-out questions, scored against what the row says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from luthier.data.conversation import Content, Conversation, Task, Text, conversations
from luthier.evaluate.metrics import Metric
from luthier.inference.engine import Engine, Sampling


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation up to its last assistant turn, and what that turn says."""

    prompt: Conversation
    reference: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer and its scores by metric."""

    question: Question
    answer: str
    scores: dict[str, float] = field(default_factory=dict)


def question(content: Content) -> Question | None:
    """The question a row asks, with the better of two answers; None for text and for rows that end otherwise."""
    if isinstance(content, Task):
        return Question(content.asked, content.answer) if content.answer else None
    if isinstance(content, Text):
        return None
    content = conversations(content)[0]
    last = max((i for i, m in enumerate(content.messages) if m.role == "assistant"), default=0)
    reference = content.messages[last].content if last else ""
    return Question(replace(content, messages=content.messages[:last]), reference) if reference.strip() else None


def answer_all(
    engine: Engine,
    questions: Sequence[Question],
    metrics: Sequence[Metric],
    sampling: Sampling,
    *,
    on_answers: Callable[[int], object] = lambda done: None,
) -> list[Answered]:
    """Ask everything and score it; the answers stand in the order of the questions."""
    answered: dict[int, Answered] = {}
    for index, text in engine.generate([q.prompt for q in questions], sampling):
        asked = questions[index]
        scores = {metric.type: metric.score(text, asked.reference) for metric in metrics}
        answered[index] = Answered(asked, text, scores)
        on_answers(1)
    return [answered[i] for i in range(len(questions))]
