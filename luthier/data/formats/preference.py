"""Two answers to one prompt: `{"prompt": ..., "chosen": ..., "rejected": ...}` and its usual variants."""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import (
    LARGEST_WEIGHT,
    Content,
    Message,
    Origin,
    Preference,
    Row,
    conversation,
    message,
    system_turns,
    unlearnt,
)
from luthier.data.formats.alpaca import history
from luthier.data.formats.base import PREFERENCE_KEYS, wrong_layout
from luthier.data.formats.sharegpt import sharegpt_message
from luthier.errors import RowError

PROMPTS = ("prompt", "messages", "conversations", "conversation", "question", "query", "instruction")


class PreferencePair:
    """A prompt (text, messages or ShareGPT turns; or the turns that both answers begin with) and two answers."""

    evidence = "chosen and rejected, each text, a message or messages; prompt or instruction; margin optional"

    def recognises(self, value: Any) -> bool:
        """Both answers are there, as text or turns."""
        return (
            isinstance(value, dict)
            and set(value) >= PREFERENCE_KEYS
            and all(isinstance(value[key], str | dict | list) for key in PREFERENCE_KEYS)
        )

    def read(self, row: Row) -> Content:
        """The pair; raises RowError."""
        value, origin = row.value, row.origin
        if not self.recognises(value):
            raise wrong_layout(row, self.evidence)
        better, worse = (turns(value[key], "assistant", origin) for key in ("chosen", "rejected"))
        prompt = prompt_of(row)
        if not prompt:  # both answers are whole conversations
            same = [a == b for a, b in zip(better, worse, strict=False)]
            shared = same.index(False) if False in same else len(same)
            prompt, better, worse = better[:shared], better[shared:], worse[shared:]
        if better == worse:
            raise RowError(str(origin), "identical-pair", "chosen and rejected are the same")
        if not any(turn.role == "user" for turn in prompt):
            raise RowError(str(origin), "empty-question", "no prompt: neither under a key nor shared by both answers")
        before = [unlearnt(turn) for turn in prompt]
        both = [conversation([*before, *answer], origin, value.get("tools")) for answer in (better, worse)]
        return Preference(both[0], both[1], _margin(value.get("margin"), origin))


def prompt_of(row: Row) -> list[Message]:
    """What is asked, under whichever key it stands; empty where there is none. Raises RowError."""
    value = row.value
    asked = next((value[key] for key in PROMPTS if value.get(key)), "")
    if isinstance(value.get("input"), str) and value["input"] and isinstance(asked, str):
        asked = f"{asked}\n{value['input']}"  # Alpaca's second half of an instruction
    before = system_turns(value, row.origin) + history(value.get("history"), row)
    return before + (turns(asked, "user", row.origin) if asked else [])


def turns(said: Any, role: str, origin: Origin) -> list[Message]:
    """A string as one message of that role; one message or several as they are, OpenAI's or ShareGPT's."""
    if isinstance(said, str):
        return [Message(role=role, content=said)]
    if isinstance(said, dict):
        said = [said]
    if not isinstance(said, list):
        raise RowError(str(origin), "bad-message", f"expected text or messages, got {type(said).__name__}")
    return [
        sharegpt_message(turn, origin, position)
        if isinstance(turn, dict) and {"from", "value"} <= set(turn)
        else message(turn, origin, position)
        for position, turn in enumerate(said)
    ]


def _margin(value: Any, origin: Origin) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_WEIGHT:
        raise RowError(str(origin), "bad-message", f"margin must be a number, got {value!r}")
    return float(value)
