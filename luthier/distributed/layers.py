"""The layers of a model, and a model that has some of them only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import UserError

FAMILIES = ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma2", "Gemma3", "GPT2", "Phi3", "SmolLM3")
"""Whose layers depend on nothing but their input, and whose parts stand in `BEFORE` and `BEHIND`."""
BEFORE, BEHIND = ("wpe", "drop"), ("norm", "ln_f")
"""What stands between the embeddings and the first layer, and behind the last."""


def base_of(model: Any) -> Any:
    """The model of transformers in a model that may carry an adapter."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def layers_of(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the decoder layers, and under which name.

    Raises:
        UserError: they cannot be told apart.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UserError(f"parallel: the layers of {type(model).__name__} cannot be told apart; write parallel: ddp")
    holder, _, name = min(lists, key=lambda name: name.count(".")).rpartition(".")
    return model.get_submodule(holder), name


class Layers:
    """The layers of a model, which can be run a few at a time."""

    def __init__(self, model: Any) -> None:
        base = base_of(model)
        if type(base).__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") not in FAMILIES:
            raise UserError(
                f"parallel: the layers of {type(base).__name__} are not known to follow from each other alone; "
                f"pipeline takes {', '.join(FAMILIES)}. Write parallel: fsdp"
            )
        self.holder: Any
        self.holder, self._name = layers_of(base)
        self.every: list[nn.Module] = list(getattr(self.holder, self._name))
        self.embedding, self.head = base.get_input_embeddings(), base.get_output_embeddings()
        self.tied = self.embedding.weight is self.head.weight
        self.before = [getattr(self.holder, name) for name in BEFORE if hasattr(self.holder, name)]
        self.behind = [getattr(self.holder, name) for name in BEHIND if hasattr(self.holder, name)]
        self.width, self.dtype = self.embedding.weight.shape[1], self.embedding.weight.dtype

    @property
    def last(self) -> int:
        """The number behind the last layer."""
        return len(self.every)

    def modules(self, start: int, end: int) -> list[nn.Module]:
        """All that a part of the layers needs; a tied head needs the embedding."""
        ends = [self.embedding, *self.before] if start == 0 else []
        ends += [self.head, *self.behind] if end == self.last else []
        return [*self.every[start:end], *ends]

    @contextmanager
    def only(self, start: int, end: int) -> Iterator[None]:
        """The model with these layers, and with what stands around all of them at its ends only."""
        config = self.holder.config
        swapped: dict[str, nn.Module] = {self._name: nn.ModuleList(self.every[start:end])}
        swapped |= {name: _Nothing() for name in BEFORE if start > 0 and hasattr(self.holder, name)}
        swapped |= {name: nn.Identity() for name in BEHIND if end < self.last and hasattr(self.holder, name)}
        kept = {name: getattr(self.holder, name) for name in swapped}
        kinds = getattr(config, "layer_types", None)
        try:
            for name, module in swapped.items():
                setattr(self.holder, name, module)
            if kinds:
                config.layer_types = kinds[start:end]
            yield
        finally:
            for name, module in kept.items():
                setattr(self.holder, name, module)
            if kinds:
                config.layer_types = kinds

    def costs(self, *, tokens: int = 128) -> list[float]:
        """Seconds of each layer, and of the head, which the last one bears; the least of three passes."""
        found = [float("inf")] * (self.last + 1)
        hooks, started = [], [0.0]

        def before(*_: Any) -> None:
            started[0] = time.perf_counter()

        def behind(place: int) -> Any:
            return lambda *_: found.__setitem__(place, min(found[place], time.perf_counter() - started[0]))

        for place, module in enumerate([*self.every, self.head]):
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(behind(place))]
        tokens = min(tokens, getattr(self.holder.config, "max_position_embeddings", tokens))
        ids = torch.zeros(1, tokens, dtype=torch.long, device=self.embedding.weight.device)
        try:
            with torch.no_grad():
                for _ in range(3):
                    self.head(self.holder(input_ids=ids, use_cache=False).last_hidden_state)
        finally:
            for hook in hooks:
                hook.remove()
        return [*found[: self.last - 1], found[self.last - 1] + found[self.last]]


class _Nothing(nn.Module):
    """Adds nothing, or leaves as it is."""

    def forward(self, given: Tensor) -> Tensor:
        """Of positions: nothing; of hidden states: themselves."""
        return given if given.is_floating_point() else torch.zeros((), device=given.device)


def cut(costs: Sequence[float], parts: int) -> list[tuple[int, int]]:
    """Neighbouring layers in so many parts, the dearest of which is as cheap as can be.

    Raises:
        UserError: there are fewer layers than parts.
    """
    if len(costs) < parts:
        raise UserError(f"parallel: {len(costs)} layers make no {parts} stages; start fewer processes")
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    best = [[(total[end], 0) for end in range(len(total))]]  # [parts - 1][end]: the dearest part, and where it begins
    for count in range(1, parts):
        row = [(float("inf"), 0)] * len(total)
        for end in range(count + 1, len(total)):
            tries = ((max(best[-1][start][0], total[end] - total[start]), start) for start in range(count, end))
            row[end] = min(tries)
        best.append(row)
    found, end = [], len(costs)
    for row in reversed(best):
        start = row[end][1]
        found.append((start, end))
        end = start
    return found[::-1]
