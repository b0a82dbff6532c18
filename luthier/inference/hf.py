"""The engine on a model of transformers in this process: batched, or streaming."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from luthier.data.conversation import Conversation
from luthier.data.render import Renderer
from luthier.inference.batching import Answer, Batcher
from luthier.inference.engine import Sampling
from luthier.inference.sampling import Guide
from luthier.models.output import has_virtual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_PROMPTS = 16
"""Prompts that are answered at once."""


class HfEngine:
    """Answers with a loaded model."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer) -> None:
        self.model, self.renderer = model, renderer
        if has_virtual_tokens(model):
            warnings.filterwarnings("ignore", message="Position ids are not supported")  # peft counts for itself
        tokenizer = renderer.tokenizer
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(renderer.stop_ids, default=0)

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Answers as they are finished, those to short prompts begun first."""
        encoded = [self.renderer.prompt(prompt.messages, prompt.tools) for prompt in prompts]
        for i, answer in self.answers(encoded, sampling, seeds):
            yield i, answer.text()

    def complete(
        self, encoded: Sequence[list[int]], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int]]]:
        """The ids that follow prompts, each up to and with its stop token, with the index of the prompt.

        Each answer has a seed, and is the same whatever is answered beside it; `seeds` are those of the prompts, by
        default numbered from the one of `sampling`.
        """
        for i, answer in self.answers(encoded, sampling, seeds):
            yield i, answer.ids

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """Pieces of text as they come; a reader that goes away ends the answer."""
        answer = self.answer(self.renderer.prompt(prompt.messages, prompt.tools), sampling, seeds_of(sampling, 1)[0])
        shown = ""
        batcher = self._batcher([answer])
        while not answer.finish:
            for _ in batcher.step():
                if answer.error is not None:
                    raise answer.error
            said = answer.text()
            if len(said) > len(shown):
                yield said[len(shown) :]
                shown = said

    def answers(
        self, encoded: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int] | None
    ) -> Iterator[tuple[int, Answer]]:
        """The same with all that is known of each."""
        seeds = seeds or seeds_of(sampling, len(encoded))
        answers = [self.answer(ids, sampling, seed) for ids, seed in zip(encoded, seeds, strict=True)]
        numbers = {answer: i for i, answer in enumerate(answers)}
        for answer in self._batcher(sorted(answers, key=lambda one: len(one.prompt))).run():
            yield numbers[answer], answer

    def answer(self, ids: list[int], sampling: Sampling, seed: int) -> Answer:
        """An answer to be made; raises UserError for a schema that none can be held to."""
        guide = None
        if sampling.schema is not None:
            head = self.model.get_output_embeddings()
            guide = Guide(sampling.schema, self.renderer.tokenizer, head.weight.shape[0])
        return Answer(ids, sampling, seed, self.renderer, guide=guide)

    def _batcher(self, answers: Sequence[Answer]) -> Batcher:
        self.model.eval()
        batcher = Batcher(self.model, int(self.pad), slots=BATCH_PROMPTS)
        batcher.waiting.extend(answers)
        return batcher

    def text(self, ids: list[int]) -> str:
        """What completed ids say, without their stop token."""
        kept = ids[:-1] if ids and ids[-1] in self.renderer.stop_ids else ids
        return str(self.renderer.tokenizer.decode(kept, skip_special_tokens=True))


def seeds_of(sampling: Sampling, count: int) -> list[int]:
    """A seed for each answer: numbered from the one that was asked for, or new ones."""
    first = secrets.randbits(62) if sampling.seed is None else sampling.seed
    return [first + i for i in range(count)]
