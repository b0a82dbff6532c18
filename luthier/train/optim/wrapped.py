"""Optimizers of libraries behind one face, with what torch's `state` does not say about them.

Imported only where an optimizer is made or saved, since it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Wrapped(torch.optim.Optimizer):
    """One optimizer, or several that share the parameters of a model, each with groups of its own.

    Groups and state are those of the parts, not copies. Subclasses tell what else must be saved, and whether the
    weights to measure and to keep differ from those that are trained.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each part; closures are not used here."""
        for part in self.parts:
            part.step()

    def numbers(self) -> dict[str, Tensor | int | float]:
        """What must be saved besides the state of each parameter."""
        return {}

    def set_numbers(self, numbers: Mapping[str, Tensor | int | float]) -> None:
        """Put back what `numbers` returned; called before the state of each parameter is put back."""

    def loaded(self) -> None:
        """Called after the state of each parameter was put back."""

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The model has the weights to measure and to keep; afterwards those of training again, bit for bit."""
        yield

    def settle(self) -> None:
        """Training is over: the model gets the weights to keep."""


@contextmanager
def evaluation_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The model has the weights to measure and to keep, which for most optimizers are those of training."""
    if not isinstance(optimizer, Wrapped):
        yield
        return
    with optimizer.evaluation():
        yield


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Training is over: the model gets the weights to keep."""
    if isinstance(optimizer, Wrapped):
        optimizer.settle()
