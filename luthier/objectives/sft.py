"""Supervised fine-tuning: the negative log-likelihood of what the assistant says."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.data.conversation import Content, Conversation
from luthier.errors import RowError
from luthier.objectives.base import hint
from luthier.plugins import Part

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.pack import Batch
    from luthier.data.render import Renderer, Tokens


class Sft(Part):
    """Learn the assistant's turns, each with its end-of-turn token; everything else is context."""

    type: Literal["sft", "pretrain"] = "sft"

    joint: ClassVar[bool] = False
    reference: ClassVar[bool] = False

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The conversation with its assistant turns supervised."""
        if not isinstance(content, Conversation):
            raise RowError("", "wrong-content", f"sft learns conversations; {hint(content)}")
        return renderer.conversation(content)

    def units(self, batch: Batch) -> int:
        """Supervised tokens."""
        return len(batch.targets)

    def loss(self, logprobs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """- sum of weight x log p(token), in float64 so that the order of summation does not matter."""
        return -(logprobs.double() * batch.targets.weight).sum(), {}
