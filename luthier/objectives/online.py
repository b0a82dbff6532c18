"""What online objectives share: rows ask, the model answers, rewards judge, and a policy gradient follows.

The answers are made by the room `rollout`; here is only what is learnt from them. Each supervised token comes with the
columns `advantage` (how much better its answer was than expected), `old` (its log-probability when it was drawn, where
answers are used more than once) and `reference` (that of the model before training, where `beta` holds it there).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.data.conversation import Content, Conversation, Task
from luthier.errors import RowError
from luthier.objectives.base import Batch, Example, Objective, Output, Renderer, Tensor, Tokens, hint
from luthier.plugins import Choice, Part


class Online(Objective):
    """Settings of drawing and judging answers."""

    rewards: Annotated[list[Annotated[Part, Choice("reward")]], Field(min_length=1)]
    """What judges an answer, for example `[exact_match]`; several are added up by their `weight`."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Answers drawn for each prompt."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature at which answers are drawn and learnt."""
    updates: Annotated[int, Field(gt=0)] = 1
    """Optimizer steps that are made from the same answers."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the distance from the model before training; 0 needs no reference."""
    epsilon: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio to the drawing policy counts before it is clipped."""
    epsilon_high: Annotated[float, Field(gt=0)] | None = None
    """The same upwards (DAPO, arXiv:2503.14476); null: as `epsilon`."""

    joint: ClassVar[bool] = True
    learns_turns: ClassVar[bool] = False
    online: ClassVar[bool] = True

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The prompt, nothing of it supervised."""
        from luthier.data.render import Tokens

        task = asked(content)
        if task is None:
            raise RowError("", "wrong-content", f"{self.type} learns from prompts and conversations; {hint(content)}")
        return [Tokens.unsupervised(renderer.prompt(task.asked.messages, task.asked.tools))]

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """How much better each answer is than expected: rewards `[P, G]` of G answers to P prompts, to `[P, G]`."""

    def judged(self, example: Example) -> Example:
        """A group of answers once all its columns are known; those that estimate more than a baseline add them here."""
        return example

    def clipped(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The loss of a ratio between policies (Schulman et al. 2017, arXiv:1707.06347, eq. 7), elementwise."""
        import torch

        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return -torch.min(ratio * advantage, ratio.clamp(1 - self.epsilon, 1 + high) * advantage)

    def distance(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """An unbiased, never negative estimate of KL(policy || reference) of each token `[N]` (Schulman 2020, k3).

        Weighted by the ratio to the drawing policy, so that its gradient is that of the KL too (arXiv:2512.02556).
        """
        apart = batch.column("reference").double() - logprobs
        return (logprobs - self.old(logprobs, batch)).exp() * (apart.exp() - apart - 1)

    def old(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """Log-probabilities `[N]` under the policy that drew the answers: this one, unless they are used again."""
        return batch.column("old").double() if "old" in batch.columns else logprobs.detach()

    def said(self, output: Output, batch: Batch) -> Tensor:
        """Log-probabilities `[N]` at the temperature of drawing, in float64."""
        return output.logprobs(batch.targets, temperature=self.temperature).double()


def asked(content: Content) -> Task | None:
    """What a row asks: a task, or a conversation up to its last answer, which is then the right one."""
    if isinstance(content, Task):
        return content
    if not isinstance(content, Conversation):
        return None
    last = max((i for i, m in enumerate(content.messages) if m.role == "assistant"), default=0)
    if not last:
        return None
    return Task(Conversation(content.messages[:last], content.tools), content.messages[last].content)
