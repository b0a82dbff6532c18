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
    """Only the likeliest tokens of this total probability (Holtzman et al. 2020, arXiv:1904.09751)."""
    seed: int | None = None
    top_k: int = 0
    """Only so many of the likeliest tokens; 0: all."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens of prompt and answer, multiplies negative ones (CTRL, arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer holds already (OpenAI)."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens once for each time that the answer holds them (OpenAI)."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, and are no part of it."""
    logprobs: int | None = None
    """Keep each token's log-probability, and that of so many of the likeliest; before penalties and temperature."""
    schema: str | None = None
    """A JSON schema that the answer is held to."""


def seeds_for(sampling: Sampling, answers: int, seeds: Sequence[int] | None) -> Sequence[int | None]:
    """The seed of each answer: its own, or numbered from the first; None where any will do."""
    return seeds or [None if sampling.seed is None else sampling.seed + i for i in range(answers)]


class Engine(Protocol):
    """Something that answers."""

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Answers with the index of their prompt, as they are finished. The last message is the one to answer.

        Each answer has a seed: its own of `seeds`, or else numbered from the one of `sampling`.
        """

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """One answer, in pieces as they come."""
