"""What was answered, as OpenAI's API writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.inference.calls import calls_in

if TYPE_CHECKING:
    from luthier.inference.batching import Answer


class TextShape:
    """Choices of completions."""

    kind = piece_kind = "text_completion"

    def begins(self, count: int) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def whole(self, answer: Answer, number: int) -> dict[str, Any]:
        """A finished answer."""
        return self.piece(answer, number, answer.text(), (0, 0), answer.finish)

    def piece(self, answer: Answer, number: int, new: str, span: tuple[int, int], finish: str) -> dict[str, Any]:
        """New text."""
        return {"index": number, "text": new, "logprobs": None, "finish_reason": finish or None}


class ChatShape:
    """Choices of chats, in which tools may be called."""

    kind, piece_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, tools: Mapping[str, Any], *, logprobs: bool) -> None:
        self.tools, self.logprobs = tools, logprobs

    def begins(self, count: int) -> list[dict[str, Any]]:
        """The role of each."""
        delta = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [{"index": number} | delta for number in range(count)]

    def whole(self, answer: Answer, number: int) -> dict[str, Any]:
        """A finished answer, with the tools that it calls."""
        text, calls = calls_in(answer.text(), self.tools) if self.tools else (answer.text(), [])
        said: dict[str, Any] = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
        finish = "tool_calls" if calls and answer.finish == "stop" else answer.finish
        log = chances(answer, 0, len(answer.ids)) if self.logprobs else None
        return {"index": number, "message": said, "logprobs": log, "finish_reason": finish}

    def piece(self, answer: Answer, number: int, new: str, span: tuple[int, int], finish: str) -> dict[str, Any]:
        """New text; where there are tools, all of it at the end, as only then it is known whether it is a call."""
        delta: dict[str, Any] = {"content": new} if new and not self.tools else {}
        if self.tools and finish:
            choice = self.whole(answer, number)
            delta, finish = choice["message"], choice["finish_reason"]
            delta["tool_calls"] = [{"index": i} | call for i, call in enumerate(delta.get("tool_calls", ()))] or None
        log = chances(answer, *span) if self.logprobs else None
        return {"index": number, "delta": delta, "logprobs": log, "finish_reason": finish or None}


def chances(answer: Answer, start: int, end: int) -> dict[str, Any]:
    """The log-probabilities of the tokens from `start` to `end`, without the stop token."""

    def one(token: int, chance: float) -> dict[str, Any]:
        text = str(answer.renderer.tokenizer.decode([token]))
        return {"token": text, "logprob": max(chance, -9999.0), "bytes": list(text.encode())}

    pairs = [*zip(answer.ids[start:end], answer.chances[start:end], strict=True)]
    said = [pair for pair in pairs if pair[0] not in answer.renderer.stop_ids]
    return {"content": [one(token, own) | {"top_logprobs": [one(*best) for best in top]} for token, (own, top) in said]}
