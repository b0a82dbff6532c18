"""An engine answers prompts.

What it does: continues the ids that the renderer feeds, exactly as in training, until an end token.
What it must not know: metrics, data files, servers.
How to add one: a class with these methods in a file beside `hf.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthier.data.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; a temperature of 0 takes the likeliest."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Engine(Protocol):
    """Something that answers."""

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Answers with the index of their prompt, as they are finished. The last message is the one to answer."""

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """One answer, in pieces as they come."""
