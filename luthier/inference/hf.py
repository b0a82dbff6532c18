"""The engine on transformers' `generate`: batched with left padding, or streaming."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch

from luthier.data.conversation import Conversation
from luthier.data.render import Renderer
from luthier.inference.engine import Sampling
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

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> Iterator[tuple[int, str]]:
        """Answers in batches of prompts of like length."""
        encoded = [self.renderer.prompt(prompt.messages, prompt.tools) for prompt in prompts]
        for i, ids in self.complete(encoded, sampling):
            yield i, self.text(ids)

    def complete(
        self, encoded: Sequence[list[int]], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, list[int]]]:
        """The ids that follow prompts, each up to and with its stop token, with the index of the prompt.

        Each answer has a seed, and is the same whatever is answered beside it; `seeds` are those of the prompts, by
        default numbered from the one of `sampling`.
        """
        seeds = seeds or _seeds(sampling, len(encoded))
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
        self.model.eval()
        for group in self._batches(order, [len(ids) for ids in encoded]):
            width = max(len(encoded[i]) for i in group)
            ids = torch.full((len(group), width), int(self.pad))
            mask = torch.zeros_like(ids)
            for row, i in enumerate(group):
                ids[row, width - len(encoded[i]) :] = torch.tensor(encoded[i])
                mask[row, width - len(encoded[i]) :] = 1
            output = self._run(ids, mask, sampling, [seeds[i] for i in group])
            for row, i in enumerate(group):
                yield i, self._stopped(output[row, width:].tolist())

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
        """Prompts that are answered at once.

        Between virtual tokens and a prompt there must be no padding, so those have one length in a batch.
        """
        start = 0
        while start < len(order):
            group = order[start : start + BATCH_PROMPTS]
            if has_virtual_tokens(self.model):
                group = [i for i in group if lengths[i] == lengths[group[0]]]
            yield group
            start += len(group)

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """Pieces of text; the model runs in a thread of its own."""
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.renderer.tokenizer, skip_prompt=True, skip_special_tokens=True)
        ids = torch.tensor([self.renderer.prompt(prompt.messages, prompt.tools)])
        failed: list[BaseException] = []
        left = Event()

        def work() -> None:
            try:
                self._run(
                    ids,
                    torch.ones_like(ids),
                    sampling,
                    _seeds(sampling, 1),
                    streamer=_WithoutStops(streamer, self.renderer.stop_ids),
                    stopping_criteria=[lambda ids, scores, **_: torch.full((len(ids),), left.is_set()).to(ids.device)],
                )
            except BaseException as error:  # noqa: BLE001 - carried to the reader below
                failed.append(error)
                streamer.text_queue.put(streamer.stop_signal)

        self.model.eval()
        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            left.set()  # a reader that goes away ends the answer
            thread.join()
        if failed:
            raise failed[0]

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor, sampling: Sampling, seeds: Sequence[int], **extra: Any
    ) -> torch.Tensor:
        from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        device = self.model.get_input_embeddings().weight.device
        settings = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,  # noise is added here, and the largest taken
            eos_token_id=sorted(self.renderer.stop_ids) or None,
            pad_token_id=int(self.pad),
        )
        steps: list[Any] = []
        if sampling.temperature > 0:
            likely = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
            steps = [TemperatureLogitsWarper(sampling.temperature), *likely, _Noise(seeds)]
        with _without_own_settings(self.model), torch.inference_mode():
            result = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList(steps),
                **extra,
            )
        output: torch.Tensor = result.cpu()
        return output

    def _stopped(self, ids: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(ids) if token in self.renderer.stop_ids), len(ids))
        return ids[: end + 1]

    def text(self, ids: list[int]) -> str:
        """What completed ids say, without their stop token."""
        kept = ids[:-1] if ids and ids[-1] in self.renderer.stop_ids else ids
        return str(self.renderer.tokenizer.decode(kept, skip_special_tokens=True))


def _seeds(sampling: Sampling, count: int) -> list[int]:
    """A seed for each answer: numbered from the one that was asked for, or new ones."""
    first = secrets.randbits(62) if sampling.seed is None else sampling.seed
    return [first + i for i in range(count)]


class _Noise:
    """Draws tokens: the largest of logits and Gumbel noise is distributed as their softmax (Gumbel, 1954).

    Each row's noise comes from a generator of its own, on the CPU: an answer depends neither on what is answered beside
    it, nor on the device, and training draws as if nothing had been answered.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[B, V]` with noise."""
        drawn = [torch.empty(scores.shape[-1]).exponential_(generator=one) for one in self.generators]
        return scores - torch.stack(drawn).clamp_min_(1e-38).log_().to(scores.device)


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """transformers mixes what generation_config.json asks for (beams, penalties, forbidden tokens) into any request."""
    from transformers import GenerationConfig

    parts = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    before = [part.generation_config for part in parts]
    try:
        for part in parts:
            part.generation_config = GenerationConfig()
        yield
    finally:
        for part, settings in zip(parts, before, strict=True):
            part.generation_config = settings


class _WithoutStops:
    """Keeps stop tokens from a streamer: not all are special tokens, which decoding leaves out."""

    def __init__(self, streamer: Any, stops: frozenset[int]) -> None:
        self.streamer, self.stops = streamer, stops

    def put(self, value: torch.Tensor) -> None:
        if self.streamer.next_tokens_are_prompt or int(value.flatten()[-1]) not in self.stops:
            self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()
