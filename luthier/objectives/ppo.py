"""Proximal policy optimisation: a value head on the model learns what to expect of every token."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from luthier.objectives.base import Batch, Example, Needs, Output, Tensor
from luthier.objectives.online import Online


class Ppo(Online):
    """Policy gradient on tokens with generalised advantages (arXiv:1707.06347, 1506.02438, 2203.02155).

    The reward comes at an answer's last token; the distance from the reference is part of the reward of every token.
    """

    type: Literal["ppo"] = "ppo"
    samples: Annotated[int, Field(ge=1)] = 4
    """Answers drawn for each prompt."""
    updates: Annotated[int, Field(gt=0)] = 4
    """Optimizer steps that are made from the same answers."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """gamma: how much a later reward counts."""
    trace: Annotated[float, Field(ge=0, le=1)] = 0.95
    """lambda of the generalised advantage: 0 trusts the value head, 1 the rewards."""
    value_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the value head's own loss."""
    value_epsilon: Annotated[float, Field(gt=0)] = 0.2
    """How far a value may move from what it was when the answer was drawn before it is clipped."""

    @property
    def needs(self) -> Needs:
        """The value head."""
        return Needs(values=True)

    def advantages(self, rewards: Tensor) -> Tensor:
        """The rewards: what was expected of each token is only known later."""
        return rewards

    def judged(self, example: Example) -> Example:
        """Advantages and returns of every token of a group of answers."""
        import numpy as np
        import torch

        columns = {name: torch.from_numpy(column).double() for name, column in example.columns.items()}
        ends = np.cumsum([tokens.supervised for tokens in example.sequences])
        found: dict[str, list[Tensor]] = {"advantage": [], "return": []}
        for tokens, end in zip(example.sequences, ends, strict=True):
            part = slice(int(end) - tokens.supervised, int(end))
            rewards = torch.zeros(tokens.supervised, dtype=torch.float64)
            if self.beta:
                rewards -= self.beta * (columns["old"] - columns["reference"])[part]
            rewards[-1] += columns["reward"][part][-1]
            advantages, returns = self.estimated(rewards, columns["value"][part])
            found["advantage"].append(advantages)
            found["return"].append(returns)
        joined = {name: torch.cat(parts).float().numpy() for name, parts in found.items()}
        return replace(example, columns={**example.columns, **joined})

    def estimated(self, rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns `[T]` of one answer's tokens from their rewards and values `[T]` (GAE, eq. 16)."""
        advantages, running, later = rewards.new_zeros(len(rewards)), 0.0, 0.0
        for t in reversed(range(len(rewards))):
            surprise = float(rewards[t]) + self.discount * later - float(values[t])
            running = surprise + self.discount * self.trace * running
            advantages[t], later = running, float(values[t])
        return advantages, advantages + values

    def units(self, batch: Batch) -> int:
        """Tokens."""
        return len(batch.targets)

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped policy gradient, and the value head's clipped squared error (half of it, as in the authors' code)."""
        import torch

        logprobs = self.said(output, batch)
        policy = self.clipped((logprobs - self.old(logprobs, batch)).exp(), batch.column("advantage").double()).sum()
        values, before = output.values(batch.targets).double(), batch.column("value").double()
        returns = batch.column("return").double()
        near = before + (values - before).clamp(-self.value_epsilon, self.value_epsilon)
        error = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2).sum()
        return policy + self.value_weight * error, {"value_error": error}
