"""Odds ratio preference optimisation: supervised fine-tuning and the comparison of two answers in one, no reference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.objectives.base import Batch, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.pairs import Pairs, pairs, reported


class Orpo(Pairs):
    """Learn the better answer, and that its odds are above those of the worse (Hong et al. 2024, arXiv:2403.07691)."""

    type: Literal["orpo"] = "orpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the comparison beside the better answer's own loss (lambda in equation 6)."""

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equations 4, 6 and 7: each answer counts by its mean log-probability per token."""
        from torch.nn.functional import logsigmoid

        logprobs = output.logprobs(batch.targets)
        means = sequence_sums(logprobs, batch) / sequence_tokens(batch)
        better, worse = pairs(means, batch)
        apart = _log_odds(better) - _log_odds(worse)
        total = -(better + self.beta * logsigmoid(apart)).sum()
        return total, reported(self.beta * better, self.beta * worse)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p < 0, exact near both ends; a sure answer is taken as one part in 1e12 unsure."""
    import torch

    logp = logp.clamp(max=-1e-12)
    return logp - torch.where(logp > -0.6931, (-logp.expm1()).log(), (-logp.exp()).log1p())
