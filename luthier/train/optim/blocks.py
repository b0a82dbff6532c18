"""The blocks of BAdam, and its optimizer as others are. Needs torch and badam, so it is imported late."""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from badam import BlockOptimizer
from torch import Tensor

from luthier.train.optim.base import Group
from luthier.train.optim.wrapped import Wrapped

_LAYER = re.compile(r".*?\.\d+\.")


def blocks(groups: Sequence[Group], *, rest: bool) -> list[list[str]]:
    """Prefixes of parameter names that are trained together: each layer, and what lies outside of them if asked."""
    layers: dict[str, None] = {}
    outside = []
    for name in (name for group in groups for name in group.parameters):
        layer = _LAYER.match(name)
        if layer is None:
            outside.append(name)
        else:
            layers[layer[0]] = None
    return [*([layer] for layer in layers), *([outside] if rest and outside else [])]


class Blocks(Wrapped):
    """BlockOptimizer of badam: it trains copies of the block's parameters in float32 and writes them back.

    `state` is that of the block's parameters. The library decays norms and biases like all else, so the copies are put
    into groups anew after each switch.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        found: list[list[str]],
        settings: dict[str, Any],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        self.home = {name: group for group in groups for name in group.parameters}
        named = [(name, group.parameters[name]) for name, group in self.home.items()]
        self.base = torch.optim.AdamW([p for _, p in named], lr=0.0, betas=betas, eps=eps, weight_decay=0.0)
        with _quiet(), warnings.catch_warnings(action="ignore"):  # of weights in float32, which are asked for here
            self.inner = BlockOptimizer(self.base, named, block_prefix_list=found, verbose=0, **settings)
        super().__init__(self.inner)
        self._switched()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of the block; then perhaps the next block."""
        before = self.inner.param_idx2hp
        with _quiet():
            self.inner.step()
        if self.inner.param_idx2hp is not before:
            self._switched()

    def numbers(self) -> dict[str, Tensor | int | float]:
        """The block, the one after it, the order of those that follow, and the steps so far."""
        inner = self.inner
        found: dict[str, Tensor | int | float] = {
            "block": inner.block_prefix_list.index(inner.active_param_prefixs),
            "next": inner.current_block_idx,
            "global_step": inner.global_step,
        }
        return found | (
            {"order": torch.tensor(inner.block_order, dtype=torch.int64)} if inner.switch_mode == "random" else {}
        )

    def set_numbers(self, numbers: Mapping[str, Tensor | int | float]) -> None:
        """Train the block that was trained; the model has its weights already, of which the copies are made."""
        inner = self.inner
        inner.current_block_idx = numbers["block"]
        with _quiet():
            inner.switch_trainable_params()
        inner.current_block_idx, inner.global_step = numbers["next"], numbers["global_step"]
        if isinstance(numbers.get("order"), Tensor):
            inner.block_order = numbers["order"].tolist()  # type: ignore[union-attr]
        self._switched()

    def _switched(self) -> None:
        """Groups, rate and state of the block that is trained now."""
        lows, highs = self.inner.param_idx2lp, self.inner.param_idx2hp
        names = {i: self.inner.named_parameters_list[i][0] for i in lows}
        by_decay: dict[float, list[Tensor]] = {}
        for i, name in names.items():
            by_decay.setdefault(self.home[name].weight_decay, []).append(highs[i])
        settings = self.base.param_groups[0]
        self.base.param_groups = [{**settings, "params": p, "weight_decay": decay} for decay, p in by_decay.items()]
        (group,) = self.param_groups  # the rate of which the library gives to all groups of the block
        group["lr_scale"] = max(self.home[name].lr_scale for name in names.values())
        self.state = defaultdict(dict, {lows[i]: self.base.state[highs[i]] for i in lows})


@contextmanager
def _quiet() -> Iterator[None]:
    """The library prints each block that it begins."""
    with redirect_stdout(io.StringIO()):
        yield
