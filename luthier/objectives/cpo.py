"""Contrastive preference optimisation: DPO with a uniform reference, beside the better answer's own loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.objectives.base import Batch, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.pairs import Pairs, pairs, reported


class Cpo(Pairs):
    """Make the better answer likelier than the worse, and likely (Xu et al. 2024, arXiv:2401.08417)."""

    type: Literal["cpo"] = "cpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Scale of the comparison."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that may be the wrong way round."""
    sft_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the better answer's own loss per token."""

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 3, with the own loss per token as the authors' code has it."""
        from torch.nn.functional import logsigmoid

        sums, smooth = sequence_sums(output.logprobs(batch.targets), batch), self.label_smoothing
        better, worse = pairs(sums, batch)
        own, _ = pairs(sums / sequence_tokens(batch), batch)
        apart = self.beta * (better - worse)
        compared = (1 - smooth) * logsigmoid(apart) + smooth * logsigmoid(-apart)
        return -(compared + self.sft_weight * own).sum(), reported(self.beta * better, self.beta * worse)
