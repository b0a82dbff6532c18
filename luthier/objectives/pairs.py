"""What objectives that compare two answers share: the row's two sequences, and its two numbers."""

from __future__ import annotations

from typing import ClassVar

from luthier.data.conversation import Content, Preference
from luthier.errors import RowError
from luthier.objectives.base import Batch, Objective, Renderer, Tensor, Tokens, hint, sole


class Pairs(Objective):
    """Learns from pairs of answers to one prompt."""

    joint: ClassVar[bool] = True

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The better answer behind its prompt, then the other one."""
        if not isinstance(content, Preference):
            raise RowError("", "wrong-content", f"{self.type} learns pairs of answers; {hint(content)}")
        return [sole(content.chosen, renderer), sole(content.rejected, renderer)]

    def units(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch.segments) // 2 if len(batch.targets) else 0


def pairs(sums: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers `[P]` of better and of other answers, of those of segments `[S]`: each example has one of both."""
    if not len(batch.targets):
        return sums[:0], sums[:0]
    return sums[0::2], sums[1::2]


def reported(better: Tensor, worse: Tensor) -> dict[str, Tensor]:
    """Sums over pairs `[P]`: how far apart two rewards are, and in how many pairs the better answer leads."""
    return {"reward_margin": (better - worse).sum(), "reward_accuracy": (better > worse).double().sum()}
