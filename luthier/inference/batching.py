"""Answers that are made together: they join and leave between tokens, so that nobody waits for the longest.

A step prefills what is new, left-padded, merges it into the cache of its adapter, and adds a token to every answer.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from luthier.data.render import Renderer
from luthier.inference.engine import Sampling
from luthier.inference.sampling import Draw, Guide
from luthier.models.output import has_virtual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = "base"
"""Names the model without any adapter."""
PREFILL_TOKENS = 2048
"""Prompts' tokens that a step takes in beside the answers that are under way."""
ROOM = 64
"""Tokens that a cache grows by."""


@dataclass(eq=False)
class Answer:
    """One answer in the making. `tell` is called after each of its tokens, in the thread that makes them."""

    prompt: list[int]
    sampling: Sampling
    seed: int
    renderer: Renderer
    adapter: str = ""
    """An adapter of the model by its name, `base`, or the model as it is."""
    guide: Guide | None = None
    tell: Callable[[Answer], object] = lambda answer: None
    ids: list[int] = field(default_factory=list)
    """What was said, with the stop token."""
    chances: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    """Each token's log-probability and, where asked for, the likeliest tokens with theirs."""
    finish: str = ""
    """Why it ended: `stop`, `length`, `cancelled` or `error`."""
    error: Exception | None = None
    cancelled: bool = False
    """Set by whoever no longer wants it; it leaves before the next token."""

    def __post_init__(self) -> None:
        self.draw = Draw(self.sampling, self.seed, self.prompt, self.guide)

    def take(self, logits: Tensor, likeliest: int) -> None:
        """Add the next token, from its logits `[V]`."""
        token = likeliest if self.draw.plain else self.draw(logits, self.ids)
        if self.sampling.logprobs is not None:
            chances = logits.log_softmax(-1)
            best = chances.topk(min(self.sampling.logprobs, len(chances)))
            self.chances.append(
                (float(chances[token]), [*zip(best.indices.tolist(), best.values.tolist(), strict=True)])
            )
        self.ids.append(token)
        if token in self.renderer.stop_ids or (self.sampling.stop and self._cut(self._decoded())[1]):
            self.finish = "stop"
        elif len(self.ids) >= self.sampling.max_new_tokens:
            self.finish = "length"

    def text(self) -> str:
        """What is said, up to a stop text; of an unfinished answer, what no later token can take back."""
        text, stopped = self._cut(self._decoded())
        if self.finish or stopped:
            return text
        text = text.rstrip("\ufffd")  # half of a character
        starts = (stop[:size] for stop in self.sampling.stop for size in range(len(stop) - 1, 0, -1))
        held = max((len(start) for start in starts if text.endswith(start)), default=0)
        return text[: len(text) - held]

    def _decoded(self) -> str:
        ended = bool(self.ids) and self.ids[-1] in self.renderer.stop_ids
        return str(self.renderer.tokenizer.decode(self.ids[: len(self.ids) - ended], skip_special_tokens=True))

    def _cut(self, text: str) -> tuple[str, bool]:
        places = [place for stop in self.sampling.stop if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values `[B, H, S, D]` as views of tensors with room to grow, so that a token does not copy them all."""

    held: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the states of new tokens; gives all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        seen, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self.held is None or end > self.held[0].shape[2]:
            self.held = (_wider(self.keys, end + ROOM), _wider(self.values, end + ROOM))
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, seen:end] = new
        self.keys, self.values = (held[:, :, :end] for held in self.held)
        return self.keys, self.values


def _wider(states: Tensor, width: int) -> Tensor:
    held = states.new_empty(*states.shape[:2], width, states.shape[3])
    held[:, :, : states.shape[2]] = states
    return held


@dataclass(eq=False)
class _Rows:
    """Answers that share forward passes: `mask` `[B, S]` is 0 where a row is padded on its left."""

    answers: list[Answer]
    mask: Tensor
    cache: Any

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows, without the padding that all of them have."""
        if len(rows) == len(self.answers):
            return
        self.answers = [self.answers[row] for row in rows]
        picked = torch.tensor(rows, device=self.mask.device)
        width = self.mask.shape[1] - int(self.mask[picked].any(0).int().argmax())
        self.mask = self.mask[picked, -width:]
        self.cache = _cache([(k[picked, :, -width:], v[picked, :, -width:]) for k, v in _states(self.cache)])

    def join(self, other: _Rows) -> None:
        """Take in other rows behind these."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.answers = self.answers + other.answers
        self.mask = torch.cat([pad(one.mask, (width - one.mask.shape[1], 0)) for one in (self, other)])
        pairs = zip(_states(self.cache), _states(other.cache), strict=True)
        self.cache = _cache(
            [
                tuple(
                    torch.cat([pad(one, (0, 0, width - one.shape[2], 0)) for one in both])
                    for both in zip(a, b, strict=True)
                )
                for a, b in pairs
            ]
        )


def _states(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _cache(states: Sequence[tuple[Tensor, ...]]) -> Any:
    cache = Cache(layer_class_to_replicate=_Layer)
    for number, (keys, values) in enumerate(states):
        cache.update(keys, values, number)
    return cache


class Batcher:
    """Makes answers with one model and its adapters, at most `slots` at once. Not for several threads."""

    def __init__(self, model: PreTrainedModel, padding: int, *, slots: int) -> None:
        self.model, self.padding, self.slots = model, padding, slots
        self.waiting: deque[Answer] = deque()
        self.running: dict[Hashable, _Rows] = {}
        inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.inner, self.active = inner, ""
        kinds = set(getattr(inner.config.get_text_config(), "layer_types", None) or ())
        self.shared = kinds <= {"full_attention", "sliding_attention"} and not getattr(inner, "_is_stateful", False)
        """Whether rows may share a cache; a state that is carried along a row cannot be padded."""
        taken = inspect.signature(inner.forward).parameters
        self.placed, self.kept = "position_ids" in taken, "past_key_values"
        self.kept = self.kept if self.kept in taken else "cache_params"  # Mamba's

    @property
    def busy(self) -> int:
        """Answers that are under way."""
        return sum(len(rows.answers) for rows in self.running.values())

    def run(self) -> Iterator[Answer]:
        """Answers as they are finished, until there are no more; raises what went wrong with one."""
        while self.waiting or self.running:
            for answer in self.step():
                if answer.error is not None:
                    raise answer.error
                yield answer

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """A token for every answer; gives those that ended."""
        ended: list[Answer] = []
        for rows in self._admitted(ended):
            self._advance(rows, ended, prefill=True)
            key: Hashable = rows.answers[0].adapter if rows.answers and self.shared else rows
            if rows.answers and key in self.running:
                self.running[key].join(rows)
            elif rows.answers:
                self.running[key] = rows
        for key, rows in list(self.running.items()):
            self._advance(rows, ended)
            if not rows.answers:
                del self.running[key]
        return ended

    def _admitted(self, ended: list[Answer]) -> Iterator[_Rows]:
        """New rows, in the order in which they came, as many as slots are free and a step takes in."""
        for answer in [one for one in list(self.waiting) if one.cancelled]:
            self.waiting.remove(answer)
            _end(answer, "cancelled", ended)
        chosen: list[Answer] = []
        longest, free = 0, self.slots - self.busy
        while self.waiting and len(chosen) < free:
            longest = max(longest, len(self.waiting[0].prompt))
            if chosen and longest * (len(chosen) + 1) > PREFILL_TOKENS:
                break
            chosen.append(self.waiting.popleft())
        for _, group in groupby(sorted(chosen, key=lambda one: one.adapter), key=lambda one: one.adapter):
            answers = list(group)
            together = self.shared and not self._virtual(answers[0].adapter)
            for some in [answers] if together else [[one] for one in answers]:
                yield _Rows(some, torch.empty(0), None)

    def _advance(self, rows: _Rows, ended: list[Answer], *, prefill: bool = False) -> None:
        """A token for each of the rows; those that ended leave."""
        try:
            for answer in rows.answers:
                if answer.cancelled:
                    _end(answer, "cancelled", ended)
            self._leave(rows)
            if not rows.answers:
                return
            self._use(rows.answers[0].adapter)
            plain = self.active == BASE and self.inner is not self.model
            with self.model.disable_adapter() if plain else nullcontext():
                logits = self._prefill(rows) if prefill else self._decode(rows)
            for answer, own, best in zip(rows.answers, logits, logits.argmax(-1).tolist(), strict=True):
                answer.take(own, best)
                if answer.finish:
                    ended.append(answer)
                answer.tell(answer)
            self._leave(rows)
        except Exception as error:  # noqa: BLE001 - of these answers alone, and carried to whoever waits for them
            for answer in rows.answers:
                if not answer.finish:
                    answer.error = error
                    _end(answer, "error", ended)
            rows.answers = []

    def _leave(self, rows: _Rows) -> None:
        left = [row for row, answer in enumerate(rows.answers) if not answer.finish]
        if left and rows.cache is not None:
            rows.keep(left)
        else:
            rows.answers = [rows.answers[row] for row in left]

    def _prefill(self, rows: _Rows) -> Tensor:
        """Logits `[B, V]` behind the prompts, each different one computed once."""
        prompts = [tuple(answer.prompt) for answer in rows.answers]
        different = list(dict.fromkeys(prompts))
        width, device = max(map(len, different)), self.inner.get_input_embeddings().weight.device
        ids = torch.tensor([[self.padding] * (width - len(one)) + list(one) for one in different], device=device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in different], device=device)
        virtual = self._virtual(self.active)
        own = virtual or not self.shared  # such a model makes its cache itself
        cache = None if own else Cache(layer_class_to_replicate=_Layer)
        logits, cache = self._forward(self.model, ids, mask, cache, placed=not virtual)
        if virtual:
            mask = mask.new_ones(1, cache.get_seq_length())
        if len(different) < len(prompts):
            picked = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
            logits, mask = logits[picked], mask[picked]
            cache = _cache([(keys[picked], values[picked]) for keys, values in _states(cache)])
        rows.mask, rows.cache = mask, cache
        return logits

    def _decode(self, rows: _Rows) -> Tensor:
        """Logits `[B, V]` behind the last tokens."""
        ids = torch.tensor([answer.ids[-1:] for answer in rows.answers], device=rows.mask.device)
        rows.mask = pad(rows.mask, (0, 1), value=1)
        virtual = self._virtual(self.active)  # they stand in the cache already
        logits, rows.cache = self._forward(self.inner if virtual else self.model, ids, rows.mask, rows.cache)
        return logits

    def _forward(self, model: Any, ids: Tensor, mask: Tensor, cache: Any, *, placed: bool = True) -> tuple[Tensor, Any]:
        place = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        inputs: dict[str, Any] = {"position_ids": place} if placed and self.placed else {}
        if self.shared:  # alone, nothing is padded
            inputs["attention_mask"] = mask
        if cache is not None:
            inputs[self.kept] = cache
        result = model(input_ids=ids, use_cache=True, logits_to_keep=1, **inputs)
        return result.logits[:, -1].float(), result[self.kept]

    def _virtual(self, adapter: str) -> bool:
        """Whether an adapter puts virtual tokens in front, between which and a prompt there must be no padding."""
        if not adapter:
            return has_virtual_tokens(self.model)
        return bool(getattr(getattr(self.model, "peft_config", {}).get(adapter), "is_prompt_learning", False))

    def _use(self, adapter: str) -> None:
        if adapter not in ("", BASE, self.active):
            self.model.set_adapter(adapter)
        self.active = adapter


def _end(answer: Answer, why: str, ended: list[Answer]) -> None:
    answer.finish = why
    ended.append(answer)
    answer.tell(answer)
