"""A reward model: one number for an answer, higher for the better of two."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.data.conversation import Content, Preference
from luthier.errors import RowError
from luthier.objectives.base import Batch, Needs, Output, Renderer, Tensor, Tokens, hint
from luthier.objectives.pairs import Pairs, pairs, reported


class Reward(Pairs):
    """Learn scores whose differences say which answer is better (Bradley & Terry 1952; arXiv:2203.02155, eq. 1).

    Saved as transformers' sequence classification with one label, and scored where that reads it: at the last token
    that is not padding.
    """

    type: Literal["reward"] = "reward"
    center_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared sum of both scores, which holds them around zero (arXiv:2312.09244, eq. 2)."""

    learns_turns: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """A head of one number."""
        return Needs(scores=True)

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """Both conversations as the chat template writes them, each with its scored token."""
        if not isinstance(content, Preference):
            raise RowError("", "wrong-content", f"reward learns pairs of answers; {hint(content)}")
        return [renderer.scored(content.chosen), renderer.scored(content.rejected)]

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """- log sigmoid of (better - worse - the row's margin), summed over pairs."""
        from torch.nn.functional import logsigmoid

        better, worse = pairs(output.values(batch.targets).double(), batch)
        margins = better.new_tensor([c.margin or 0.0 for c in batch.contents if isinstance(c, Preference)])
        total = -logsigmoid(better - worse - margins).sum()
        if self.center_weight:
            total = total + self.center_weight * ((better + worse) ** 2).sum()
        return total, reported(better, worse)
