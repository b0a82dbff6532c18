"""Kahneman-Tversky optimisation: answers that are wanted or not, without pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.data.conversation import Content, Labelled
from luthier.errors import RowError
from luthier.objectives.base import (
    Batch,
    Example,
    Needs,
    Objective,
    Output,
    Renderer,
    Tensor,
    Tokens,
    hint,
    sequence_sums,
    sole,
)


class Kto(Objective):
    """Make wanted answers likelier than the reference does, and others less (Ethayarajh et al. 2024, arXiv:2402.01306).

    The reference point is how far the model has moved on answers that do not belong to their prompts: each prompt with
    the next row's answer. It is taken over the whole step before its loss, so accumulation and ranks do not change it.
    """

    type: Literal["kto"] = "kto"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the tuned model is held to the reference."""
    desirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of wanted answers (lambda_D)."""
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of unwanted answers (lambda_U); weight x count of both kinds should be within 1 : 1 to 4 : 3."""

    joint: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """The reference."""
        return Needs(reference=True)

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The answer behind its prompt."""
        if not isinstance(content, Labelled):
            raise RowError("", "wrong-content", f"kto learns answers with a label; {hint(content)}")
        return [sole(content.answer, renderer)]

    def companions(self, examples: Sequence[Example]) -> list[Example]:
        """Each prompt with the answer of the row after it."""
        return [
            replace(example, sequences=(_crossed(example.sequences[0], following.sequences[0]),))
            for example, following in zip(examples, [*examples[1:], *examples[:1]], strict=True)
        ]

    def statistics(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """How far strange answers moved, and how many there are."""
        moved = sequence_sums(output.logprobs(batch.targets) - batch.column("reference"), batch)
        return {"moved": moved.sum(), "count": moved.new_tensor(float(self.units(batch)))}

    def units(self, batch: Batch) -> int:
        """Answers."""
        return len(batch.segments) if len(batch.targets) else 0

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """1 - sigmoid of the gain over the reference point (equation 8), weighted and summed over answers."""
        gains = self.beta * sequence_sums(output.logprobs(batch.targets) - batch.column("reference"), batch)
        if not len(batch.targets):
            return gains.sum(), {"kl": gains.sum(), "reward_wanted": gains.sum(), "reward_unwanted": gains.sum()}
        wanted = gains.new_tensor([float(isinstance(c, Labelled) and c.wanted) for c in batch.contents])
        point = max(batch.step["moved"] / max(batch.step["count"], 1.0), 0.0)
        sign = 2 * wanted - 1
        weight = wanted * self.desirable_weight + (1 - wanted) * self.undesirable_weight
        losses = weight * (1 - (sign * (gains - self.beta * point)).sigmoid())
        return losses.sum(), {
            "kl": gains.new_tensor(point * len(gains)),
            "reward_wanted": (gains * wanted).sum(),
            "reward_unwanted": (gains * (1 - wanted)).sum(),
        }


def _crossed(asked: Tokens, answered: Tokens) -> Tokens:
    """The prompt of one sequence with the answer of another, no longer than the longer of the two."""
    import numpy as np

    prompt, answer = int(np.flatnonzero(asked.weights)[0]), int(np.flatnonzero(answered.weights)[0])
    most = max(len(asked), len(answered), prompt + 1)
    ids = np.concatenate([asked.ids[:prompt], answered.ids[answer:]])[:most]
    weights = np.concatenate([asked.weights[:prompt], answered.weights[answer:]])[:most]
    return replace(asked, ids=ids, weights=weights)
