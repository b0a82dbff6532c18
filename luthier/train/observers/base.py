"""An observer is told what happens in a run.

What it does: shows, writes down, saves. The only thing that flows back is a request to stop (a true return value of
`on_step`).
What it must not do: change weights, order, learning rate or randomness.
How to add one: a subclass of `Observer`, handed to `Factory.fine_tune(config, observers=[...])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier.train.state import State


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished optimizer step. Losses are per unit, `epoch` counts passes, `seconds` is the time of this step."""

    state: State
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    units: int
    tokens: int
    seconds: float
    evaluation: Mapping[str, float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    rows: Sequence[int | str] = ()
    """What the step learnt, on all ranks, by the numbers of the ledger; of a stream, by content and place."""
    dropped: Sequence[str] = ()
    """Rows of a stream that were passed over, and why."""

    @property
    def last(self) -> bool:
        """Whether the run is over."""
        return self.state.step >= self.total_steps


class Observer:
    """Does nothing; subclasses override what they care about."""

    def on_start(self, state: State, total_steps: int) -> None:
        """Before the first step; a resumed run starts with a state whose step is not 0."""

    def on_step(self, progress: Progress) -> bool:
        """After each step; true asks to stop."""
        return False

    def on_notice(self, state: State, text: str) -> None:
        """Something to be said between steps: a step that was skipped, memory that did not suffice."""

    def on_end(self, state: State) -> None:
        """After the last step, also when the run was stopped."""
