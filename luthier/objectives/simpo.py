"""Simple preference optimisation: the mean log-probability per token is the reward; no reference model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.objectives.base import Batch, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.pairs import Pairs, pairs, reported


class Simpo(Pairs):
    """Make the better answer likelier per token than the worse by a margin (Meng et al. 2024, arXiv:2405.14734)."""

    type: Literal["simpo"] = "simpo"
    beta: Annotated[float, Field(gt=0)] = 2.0
    """Scale of the reward."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Margin by which the better answer's reward must lead."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the better answer's own loss per token beside the comparison."""

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 6."""
        from torch.nn.functional import logsigmoid

        means = sequence_sums(output.logprobs(batch.targets), batch) / sequence_tokens(batch)
        better, worse = pairs(means, batch)
        total = -(logsigmoid(self.beta * (better - worse) - self.gamma) + self.sft_weight * better).sum()
        return total, reported(self.beta * better, self.beta * worse)
