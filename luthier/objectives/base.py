"""An objective says what is learnt from a row, and turns log-probabilities into a loss.

What it does: asks the renderer for token sequences with a mask, and sums a loss over units. The loop divides the sum by
the units of the whole step, counted over all micro-batches and devices before the first backward pass, so that
accumulation is exact.
What it must not know: the model (it never calls it), devices, batch sizes, the optimizer.
How to add one: one file here with one class, one line in `plugins.BUILT_IN["objective"]` (or an entry point
`luthier.objective`). Import torch inside the methods, or only use methods of the tensors given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from luthier.data.conversation import Content

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.pack import Batch
    from luthier.data.render import Renderer, Tokens


@runtime_checkable
class Objective(Protocol):
    """What every objective part offers."""

    type: str

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences a row gives. Raises RowError for a row this objective cannot learn from."""

    def units(self, batch: Batch) -> int:
        """How many units the loss of this batch sums over."""

    def loss(self, logprobs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as a sum over units, and further sums to report per unit; `logprobs` `[N]` as the targets are."""
