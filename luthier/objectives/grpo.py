"""Group relative policy optimisation: answers to one prompt are judged against each other."""

from __future__ import annotations

from typing import Literal

from luthier.objectives.base import Batch, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.online import Online


class Grpo(Online):
    """Learn which of a group of answers was better than the group (Shao et al. 2024, arXiv:2402.03300)."""

    type: Literal["grpo"] = "grpo"
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """Mean over all tokens (DAPO, arXiv:2503.14476), over answers of their means (the paper), or over answers of their
    sums divided by max_new_tokens (Dr. GRPO, arXiv:2503.20783)."""
    scale_rewards: bool = True
    """Divide advantages by the standard deviation of their group; Dr. GRPO does not."""

    def advantages(self, rewards: Tensor) -> Tensor:
        """Rewards minus the mean of their group, in its standard deviations."""
        apart = rewards - rewards.mean(1, keepdim=True)
        return apart / (rewards.std(1, keepdim=True) + 1e-4) if self.scale_rewards else apart

    def units(self, batch: Batch) -> int:
        """Tokens with `dapo`, else answers."""
        if self.loss_type == "dapo":
            return len(batch.targets)
        return len(batch.segments) if len(batch.targets) else 0

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped policy gradient of each token, and its distance from the reference."""
        logprobs = self.said(output, batch)
        ratio = (logprobs - self.old(logprobs, batch)).exp()
        losses = self.clipped(ratio, batch.column("advantage").double())
        metrics = {}
        if self.beta:
            distance = self.distance(logprobs, batch)
            losses = losses + self.beta * distance
            metrics["kl"] = self._per_unit(distance, batch)
        return self._per_unit(losses, batch), metrics

    def _per_unit(self, values: Tensor, batch: Batch) -> Tensor:
        """Values of tokens `[N]` as a sum over units."""
        if self.loss_type == "dapo":
            return values.sum()
        sums = sequence_sums(values, batch)
        return (sums / (sequence_tokens(batch) if self.loss_type == "grpo" else self.max_new_tokens)).sum()
