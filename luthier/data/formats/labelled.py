"""Answers with a verdict of their own, as KTO learns from: a conversation and `"label": true | false`."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Labelled, Row, conversation, unlearnt
from luthier.data.formats.base import PREFERENCE_KEYS, wrong_layout
from luthier.data.formats.preference import asked_again, prompt_of, turns
from luthier.errors import RowError

ANSWERS = ("completion", "response", "answer", "output")


class LabelledAnswer:
    """A prompt with a completion, or messages that end with the answer, and whether it is wanted."""

    evidence = "label: true or false, with prompt and completion, or messages"

    def recognises(self, value: Any) -> bool:
        """The label is a truth value and no pair of answers is there."""
        return isinstance(value, dict) and isinstance(value.get("label"), bool) and not PREFERENCE_KEYS & set(value)

    def read(self, row: Row) -> Content:
        """The answer and its label; raises RowError."""
        if not self.recognises(row.value):
            raise wrong_layout(row, self.evidence)
        said = prompt_of(row)
        answer = next((row.value[key] for key in ANSWERS if row.value.get(key)), None)
        if answer is not None:
            given = turns(answer, "assistant", row.origin)
            said = (
                [turn for turn in said if turn.role == "system"] + given if asked_again(said, given) else said + given
            )
        if not said or said[-1].role != "assistant":
            raise RowError(row.origin, "no-assistant", "the row does not end with an answer")
        before = [unlearnt(turn) for turn in said[:-1]]
        return Labelled(conversation([*before, said[-1]], row.origin, row.value.get("tools")), row.value["label"])
