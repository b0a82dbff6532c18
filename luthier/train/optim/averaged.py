"""The weights of schedule-free training and their average, kept apart. Needs torch, so it is imported late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from luthier.train.optim.wrapped import Wrapped

COUNTERS = ("k", "weight_sum", "lr_max", "scheduled_lr")
"""What the library counts in its groups."""


class Averaged(Wrapped):
    """An optimizer of schedulefree, in training between calls.

    The library finds the average by moving the weights, and them again by moving back, which rounds. Here those of
    training are copied and put back.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.inner = inner
        self.inner.train()

    def numbers(self) -> dict[str, Tensor | int | float]:
        """The counters of each group."""
        groups = enumerate(self.param_groups)
        return {f"{number}.{name}": group[name] for number, group in groups for name in COUNTERS}

    def set_numbers(self, numbers: Mapping[str, Tensor | int | float]) -> None:
        """Into the groups, which are those of the library."""
        for key, value in numbers.items():
            number, _, name = key.partition(".")
            self.param_groups[int(number)][name] = value

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The average; `y` in the state holds the weights of training meanwhile, so that a checkpoint has both."""
        for parameter in self._parameters():
            self.state[parameter]["y"] = parameter.detach().clone()
        self.inner.eval()
        try:
            yield
        finally:
            self.loaded()

    @torch.no_grad()
    def loaded(self) -> None:
        """The weights of training, from `y`."""
        for parameter in self._parameters():
            parameter.copy_(self.state[parameter].pop("y"))
        for group in self.param_groups:
            group["train_mode"] = True

    def settle(self) -> None:
        """The average, for good."""
        self.inner.eval()

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])
