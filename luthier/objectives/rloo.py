"""REINFORCE leave-one-out: an answer's expected reward is the mean of the others to its prompt."""

from __future__ import annotations

from typing import Literal

from luthier.objectives.base import Batch, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.online import Online


class Rloo(Online):
    """Policy gradient on whole answers with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740)."""

    type: Literal["rloo"] = "rloo"

    def advantages(self, rewards: Tensor) -> Tensor:
        """Each reward minus the mean of the others in its group."""
        count = rewards.shape[1]
        return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)

    def units(self, batch: Batch) -> int:
        """Answers."""
        return len(batch.segments) if len(batch.targets) else 0

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped ratio of whole answers, and the distance from the reference summed over their tokens."""
        logprobs = self.said(output, batch)
        if not len(batch.targets):
            return logprobs.sum(), {"kl": logprobs.sum()} if self.beta else {}
        ratio = sequence_sums(logprobs - self.old(logprobs, batch), batch).exp()
        advantage = sequence_sums(batch.column("advantage"), batch) / sequence_tokens(batch)  # one for a whole answer
        losses = self.clipped(ratio, advantage)
        if not self.beta:
            return losses.sum(), {}
        distance = sequence_sums(self.distance(logprobs, batch), batch)
        return (losses + self.beta * distance).sum(), {"kl": distance.sum()}
