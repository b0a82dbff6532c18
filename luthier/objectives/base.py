"""An objective says what is learnt from a row, and turns what the model says into a loss.

What it does: asks the renderer for token sequences with a mask, and sums a loss over units. The loop divides the sum by
the units of the whole step, counted over all micro-batches and devices before the first backward pass, so that
accumulation is exact.
What it must not know: the model (it never calls it), devices, batch sizes, the optimizer.
How to add one: one file here with one class, one line under `objective` in `plugins.yaml` (or an entry point
`luthier.objective`). Import torch inside the methods, or only use methods of the tensors given.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from luthier.config import ModelConfig
from luthier.data.conversation import Content, Conversation, Labelled, Preference, Task
from luthier.errors import RowError
from luthier.plugins import Part

if TYPE_CHECKING:
    import torch

    from luthier.data import pack, render
    from luthier.models import output as heads

Tensor: TypeAlias = "torch.Tensor"
Batch: TypeAlias = "pack.Batch"
Example: TypeAlias = "pack.Example"
Renderer: TypeAlias = "render.Renderer"
Tokens: TypeAlias = "render.Tokens"
Output: TypeAlias = "heads.Output"
"""What objectives are shown, by names that need no torch."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective asks of the run besides log-probabilities; most ask for nothing."""

    reference: bool = False
    """Batches hold the column `reference`: log-probabilities `[N]` of the model that training starts from."""
    scores: bool = False
    """The model has a head of one number instead of its language head (`Output.values`)."""
    teacher: ModelConfig | None = None
    """Another model answers each batch too (`Output.divergence`)."""
    embedding_noise: float = 0.0
    """The a of NEFTune."""
    values: bool = False
    """The model has a head of one number beside its language head (`Output.values`), trained along."""


class Objective(Part):
    """Base of every objective; `sequences`, `units` and `loss` are its own."""

    joint: ClassVar[bool] = False
    """Whether the sequences of a row belong together: none is cut away or learnt without the others."""
    learns_turns: ClassVar[bool] = True
    """Whether what is supervised is what the assistant says, which the check then holds against the row's text."""
    online: ClassVar[bool] = False
    """Whether it learns from what the model answers, so that rows only ask."""
    counts_tokens: ClassVar[bool] = False
    """Whether its units are tokens and its loss their negative log-likelihood, so that it has a perplexity."""

    @property
    def needs(self) -> Needs:
        """What else it asks of the run."""
        return Needs()

    @abstractmethod
    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences a row gives. Raises RowError for a row this objective cannot learn from."""

    def companions(self, examples: Sequence[Example]) -> list[Example] | None:
        """Another example for each one, whose statistics a step takes before its loss; None: it takes none."""
        return None

    def statistics(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Sums over a batch of companions; summed over the whole step, the losses find them in `batch.step`."""
        return {}

    @abstractmethod
    def units(self, batch: Batch) -> int:
        """How many units the loss of this batch sums over."""

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as a sum over units, and further sums to report per unit."""


def hint(content: Content) -> str:
    """What to do with a row of another kind than an objective learns from."""
    if isinstance(content, Preference):
        return "this row holds two answers to compare: use objective: dpo, orpo, simpo, cpo or reward"
    if isinstance(content, Labelled):
        return "this row holds an answer with a label: use objective: kto"
    if isinstance(content, Conversation):
        return "this row is a conversation: use objective: sft"
    if isinstance(content, Task):
        return "this row only asks: use objective: grpo, rloo or ppo"
    return "this row is plain text: use objective: pretrain"


def sole(conversation: Conversation, renderer: Renderer) -> Tokens:
    """A conversation whose learnt turns share one sequence.

    Raises:
        RowError: the chat template rewrites earlier turns, so that its answers need several sequences.
    """
    found = renderer.conversation(conversation)
    if len(found) > 1:
        raise RowError(
            "", "template", "the chat template rewrites earlier turns: learn one answer of this row at a time"
        )
    return found[0]


def sequence_sums(values: Tensor, batch: Batch) -> Tensor:
    """Weighted sums `[S]` over the targets of each segment of values `[N]`, in at least float64."""
    sums = values.new_zeros(len(batch.segments)).double()
    return sums.index_add(0, batch.targets.segment, values.double() * batch.targets.weight)


def sequence_tokens(batch: Batch) -> Tensor:
    """Supervised tokens `[S]` of each segment, at least 1, in float64."""
    ones = batch.targets.weight.new_ones(len(batch.targets))
    counts = ones.new_zeros(len(batch.segments)).index_add(0, batch.targets.segment, ones)
    return counts.clamp(min=1).double()
