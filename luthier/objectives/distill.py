"""Distillation: say what a larger model would say, over its whole distribution."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.config import ModelConfig
from luthier.objectives.base import Batch, Needs, Output, Tensor
from luthier.objectives.sft import Sft


class Distill(Sft):
    """Learn a teacher's next-token distributions on the assistant's turns (Hinton et al. 2015, arXiv:1503.02531).

    The teacher must share the tokenizer. It is a second model in memory, frozen.
    """

    type: Literal["distill"] = "distill"
    teacher: str
    """The model to learn from: a folder, a hub id, a .gguf file, the output of a run."""
    direction: Literal["forward", "reverse"] = "forward"
    """KL(teacher || student), or KL(student || teacher), which seeks its modes (MiniLLM, arXiv:2306.08543)."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Both distributions are flattened by this."""
    sft_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the rows' own labels in the loss; the rest is the teacher's."""

    counts_tokens: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """The teacher, beside what sft needs."""
        return Needs(teacher=ModelConfig(path=self.teacher), embedding_noise=self.neftune_noise_alpha)

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sums over supervised tokens; the divergence counts T squared: its gradients keep their size."""
        weight = batch.targets.weight
        apart = output.divergence(direction=self.direction, temperature=self.temperature).double() * weight
        own, _ = super().loss(output, batch)
        total = (1 - self.sft_weight) * self.temperature**2 * apart.sum() + self.sft_weight * own
        return total, {"divergence": apart.sum(), "nll": own}
