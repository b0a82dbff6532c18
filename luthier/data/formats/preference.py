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
    unlearnt,
)
from luthier.data.formats.alpaca import earlier
from luthier.data.formats.base import found_in
from luthier.data.formats.sharegpt import sharegpt_message
from luthier.data.strict import listed
from luthier.errors import RowError
from luthier.supplies import shipped

LISTS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "messages", "conversations", "conversation", "question", "query", "problem", "instruction")
PAIRS: list[list[str]] = shipped("luthier.data.formats", "keys.yaml")["judged"]


class PreferencePair:
    """A prompt (text, messages or ShareGPT turns; or the turns that both answers begin with) and two answers."""

    evidence = (
        "chosen and rejected, each text, a message or messages; prompt or instruction; margin optional "
        "(or messages and rejected_response)"
    )

    def recognises(self, value: Any) -> bool:
        """Both answers are there, as text or turns."""
        return isinstance(value, dict) and _sides(value) is not None

    def read(self, row: Row) -> Content:
        """The pair; raises RowError."""
        value, origin = row.value, row.origin
        better, worse = (turns(side, "assistant", origin) for side in found_in(row, _sides, self.evidence))
        prompt = prompt_of(row)
        if asked_again(prompt, better) and asked_again(prompt, worse):  # both answers are whole conversations
            system = [turn for turn in prompt if turn.role == "system" and turn not in better]
            same = [a == b for a, b in zip(better, worse, strict=False)]
            shared = same.index(False) if False in same else len(same)
            prompt, better, worse = system + better[:shared], better[shared:], worse[shared:]
        if better == worse:
            raise RowError(origin, "identical-pair", "chosen and rejected are the same")
        if not any(turn.role == "user" for turn in prompt):
            raise RowError(origin, "empty-question", "no prompt: neither under a key nor shared by both answers")
        before = [unlearnt(turn) for turn in prompt]
        both = [conversation([*before, *answer], origin, value.get("tools")) for answer in (better, worse)]
        return Preference(both[0], both[1], _margin(value.get("margin"), origin))


def _sides(value: dict[str, Any]) -> tuple[Any, Any] | None:
    """The better answer and the worse one; of messages with a response that was rejected, both conversations."""
    found = next(((value[a], value[b]) for a, b in PAIRS if a in value and b in value), None)
    talk, worse = listed(value.get("messages")), value.get("rejected_response")
    if found is None and worse is not None and isinstance(talk, list) and len(talk) > 1:
        worse = [{"role": "assistant", "content": worse}] if isinstance(worse, str) else worse
        found = (talk, talk[:-1] + worse) if isinstance(worse, list) else None
    return found if found and all(isinstance(side, str | dict | list) for side in found) else None


def asked_again(prompt: list[Message], said: list[Message]) -> bool:
    """Whether an answer is a whole conversation, in which the question of its prompt stands once more."""
    asked = [turn.content for turn in prompt if turn.role == "user"][-1:]
    return set(asked) <= {turn.content for turn in said if turn.role == "user"}


def prompt_of(row: Row) -> list[Message]:
    """What is asked, under whichever key it stands; empty where there is none. Raises RowError."""
    value = row.value
    key = next((key for key in PROMPTS if value.get(key)), "")
    asked = listed(value[key]) if key in LISTS else value[key] if key else ""
    if isinstance(value.get("input"), str) and value["input"] and isinstance(asked, str):
        asked = "\n".join(filter(None, (asked, value["input"])))  # Alpaca's second half of an instruction
    return earlier(row) + (turns(asked, "user", row.origin) if asked else [])


def turns(said: Any, role: str, origin: Origin) -> list[Message]:
    """A string as one message of that role; one message or several as they are, OpenAI's or ShareGPT's."""
    if isinstance(said, str):
        return [Message(role=role, content=said)]
    if isinstance(said, dict):
        said = [said]
    if not isinstance(said, list):
        raise RowError(origin, "bad-message", f"expected text or messages, got {type(said).__name__}")
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
        raise RowError(origin, "bad-message", f"margin must be a number, got {value!r}")
    return float(value)
