"""Chooses the tokens of one answer from the model's logits, by what was asked and a seed, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from luthier.errors import UserError
from luthier.inference.engine import Sampling
from luthier.supplies import library


class Draw:
    """Draws: the largest of logits and Gumbel noise is distributed as their softmax (Gumbel, 1954).

    Each answer's noise comes from a generator of its own, on the CPU: it depends neither on what is answered beside it,
    nor on the device, and training draws as if nothing had been answered.
    """

    def __init__(self, sampling: Sampling, seed: int, prompt: Sequence[int], guide: Guide | None = None) -> None:
        self.sampling, self.prompt, self.guide = sampling, sorted(set(prompt)), guide
        self.generator = torch.Generator().manual_seed(seed % 2**63) if sampling.temperature > 0 else None
        self.plain = self.generator is None and guide is None and not self._penalised
        """Whether the likeliest token is taken, whatever it is."""

    @property
    def _penalised(self) -> bool:
        asked = self.sampling
        return asked.repetition_penalty != 1 or asked.presence_penalty != 0 or asked.frequency_penalty != 0

    def __call__(self, logits: Tensor, said: Sequence[int]) -> int:
        """The next token, from its logits `[V]` and the answer so far."""
        scores = logits.clone()
        if self._penalised:
            self._penalise(scores, said)
        if self.guide is not None:
            self.guide.mask(scores)
        if self.generator is not None:
            scores = likely(scores / max(self.sampling.temperature, 1e-4), self.sampling)
            drawn = torch.empty(len(scores)).exponential_(generator=self.generator)
            scores = scores - drawn.clamp_min_(1e-38).log_().to(scores.device)
        token = int(scores.argmax())
        if self.guide is not None:
            self.guide.take(token)
        return token

    def _penalise(self, scores: Tensor, said: Sequence[int]) -> None:
        """In place; the penalties of OpenAI count what is said, CTRL's has the prompt in it."""
        asked, counts = self.sampling, Counter(said)
        repeated = torch.tensor(sorted({*self.prompt, *counts}), device=scores.device)
        found = scores[repeated]
        penalty = asked.repetition_penalty
        scores[repeated] = torch.where(found > 0, found / penalty, found * penalty)
        if counts:
            times = torch.tensor([*counts.values()], dtype=scores.dtype, device=scores.device)
            scores[torch.tensor([*counts], device=scores.device)] -= (
                asked.presence_penalty + asked.frequency_penalty * times
            )


def likely(scores: Tensor, asked: Sampling) -> Tensor:
    """Scores `[V]` with the tokens that top-k, top-p and min-p leave out at minus infinity, in this order."""
    if 0 < asked.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(asked.top_k).values[-1], -torch.inf)
    if asked.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True, stable=True)
        left_out = order[ordered.cumsum(-1) - ordered >= max(asked.top_p, 1e-12)]
        scores = scores.index_fill(0, left_out, -torch.inf)
    if asked.min_p > 0:
        chances = scores.softmax(-1)
        scores = scores.masked_fill(chances < asked.min_p * chances.max(), -torch.inf)
    return scores


class Guide:
    """Holds one answer to a JSON schema, by llguidance; raises UserError for a schema that it cannot read."""

    def __init__(self, schema: str, tokenizer: Any, vocabulary: int) -> None:
        known = _vocabulary(tokenizer, vocabulary)
        import llguidance

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.loads(schema))
            fault = llguidance.LLMatcher.validate_grammar(grammar, known)
        except (ValueError, RecursionError) as error:
            fault = str(error)
        if fault:
            raise UserError(f"not a JSON schema that answers can be held to: {fault.splitlines()[0][:200]}")
        self.matcher = llguidance.LLMatcher(known, grammar)

    def mask(self, scores: Tensor) -> None:
        """Put what the schema forbids at minus infinity, in place."""
        import llguidance.torch as guided

        bits = guided.allocate_token_bitmask(1, len(scores))
        guided.fill_next_token_bitmask(self.matcher, bits, 0)
        guided.apply_token_bitmask_inplace(scores, bits.to(scores.device))

    def take(self, token: int) -> None:
        """Go on behind a token."""
        self.matcher.consume_token(token)


@lru_cache(maxsize=16)
def _vocabulary(tokenizer: Any, size: int) -> Any:
    guided = library("llguidance.hf", "an answer held to a schema", "serve", called="llguidance")
    return guided.from_tokenizer(tokenizer, n_vocab=size)
