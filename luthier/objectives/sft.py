"""Supervised fine-tuning: the negative log-likelihood of what the assistant says."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.data.conversation import Content, Conversation
from luthier.errors import RowError
from luthier.objectives.base import Batch, Needs, Objective, Output, Renderer, Tensor, Tokens, hint


class Sft(Objective):
    """Learn the assistant's turns, each with its end-of-turn token; everything else is context."""

    type: Literal["sft", "pretrain", "distill"] = "sft"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all tokens alike (arXiv:1512.00567); not when measuring."""
    neftune_noise_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the input embeddings while training (NEFTune, arXiv:2310.05914); 5 is usual, 0 is none."""

    counts_tokens: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """The noise."""
        return Needs(embedding_noise=self.neftune_noise_alpha)

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The conversation with its assistant turns supervised."""
        if not isinstance(content, Conversation):
            raise RowError("", "wrong-content", f"{self.type} learns conversations; {hint(content)}")
        return renderer.conversation(content)

    def units(self, batch: Batch) -> int:
        """Supervised tokens."""
        return len(batch.targets)

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """- sum of weight x log p(token), in float64 so that the order of summation does not matter."""
        logprobs = output.logprobs(batch.targets, smoothing=self.label_smoothing if output.training else 0.0)
        return -(logprobs.double() * batch.targets.weight).sum(), {}
