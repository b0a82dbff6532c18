"""Multiple choice: a question, its options, and which is right, in the layouts of the usual tests.

Options are `choices` or `options` (a list, texts by letter, or `{text, label}`), or columns A to D (MMLU, C-Eval,
CMMLU) or opa to opd (MedMCQA); the right one is a letter, a number, or its text.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from luthier.data.conversation import Choices, Content, Message, Row, system_turns
from luthier.data.formats.base import found_in, judged
from luthier.data.strict import listed
from luthier.errors import RowError

QUESTIONS = ("question", "Question", "query", "stem")
LISTS = ("choices", "options")
ANSWERS = ("answer", "Answer", "answerKey", "answer_key", "answer_idx", "cop", "label", "correct", "target")
COLUMNS = (string.ascii_uppercase[:10], string.ascii_lowercase[:10], [f"op{c}" for c in "abcdefghij"])
SUBJECTS = ("subject", "subject_name", "category", "topic")
FROM_ONE = {"cop"}
"""Keys of numbers that count from 1."""


class Choice:
    """A question with options; learnt as the letter of the right one."""

    evidence = "question, choices or options (or columns A, B, C, D), and answer"

    def recognises(self, value: Any) -> bool:
        """A question, options, and an answer are there."""
        return isinstance(value, dict) and not judged(value) and _parts(value) is not None

    def read(self, row: Row) -> Content:
        """The question with its options; raises RowError."""
        question, options, labels, key = found_in(row, _parts, self.evidence)
        said = row.value[key]
        right = _right(said, options, labels, 1 if key in FROM_ONE else 0)
        if right is None:
            raise RowError(row.origin, "bad-message", f"{key} {said!r} is none of the {len(options)} options, or two")
        if not question.strip() or not all(option.strip() for option in options):
            raise RowError(row.origin, "empty-question", "the question or one of its options is empty")
        asked = Message(role="user", content=lettered(question, options))
        answer = Message(role="assistant", content=string.ascii_uppercase[right])
        subject = next((str(row.value[name]) for name in SUBJECTS if row.value.get(name)), "")
        turns = (*system_turns(row.value, row.origin), asked, answer)
        return Choices(turns, (), question, tuple(options), right, subject)


def lettered(question: str, options: Sequence[str]) -> str:
    """The question with its options, each with its letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines])


def _parts(value: dict[str, Any]) -> tuple[str, list[str], list[str], str] | None:
    """Question, options, their labels, and the key of the answer."""
    question = next((value[key] for key in QUESTIONS if isinstance(value.get(key), str)), None)
    answer = next((key for key in ANSWERS if isinstance(value.get(key), str | int)), None)
    options, labels = _options(value)
    if question is None or answer is None or len(options) < 2:
        return None
    return question, options, labels, answer


def _options(value: dict[str, Any]) -> tuple[list[str], list[str]]:
    given = next((listed(value[key]) for key in LISTS if key in value), None)
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        texts, labels = given["text"], list(map(str, given.get("label") or ()))
    elif isinstance(given, dict):
        texts, labels = list(given.values()), list(given)
    elif isinstance(given, list):
        texts = [one.get("text") if isinstance(one, dict) else one for one in given]
        labels = [str(one["label"]) for one in given if isinstance(one, dict) and "label" in one]
    else:
        names = max(([name for name in names if isinstance(value.get(name), str)] for names in COLUMNS), key=len)
        texts, labels = [value[name] for name in names], [name[-1] for name in names]
    if not all(isinstance(text, str) for text in texts) or len(texts) > len(string.ascii_uppercase):
        return [], []
    return texts, labels if len(labels) == len(texts) else list(string.ascii_uppercase[: len(texts)])


def _right(answer: str | int, options: list[str], labels: list[str], first: int) -> int | None:
    """Which option an answer names: by its label, its number, or its text; None where two of these do not agree.

    A text that is a label names the label, and a number that is no text counts the options.
    """
    said = str(answer).strip()
    upper = [label.upper() for label in labels]
    if said.strip("().").upper() in upper:
        return upper.index(said.strip("().").upper())
    counted = not isinstance(answer, bool) and said.isdecimal() and first <= int(said) < len(options) + first
    number, text = int(said) - first if counted else None, options.index(said) if said in options else None
    if isinstance(answer, int) or text is None:
        return number
    return text if number in (None, text) else None
