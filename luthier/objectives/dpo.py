"""Direct preference optimisation: make the better answer likelier than the worse one, against a reference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.objectives.base import Batch, Needs, Output, Tensor, sequence_sums, sequence_tokens
from luthier.objectives.pairs import Pairs, pairs, reported


class Dpo(Pairs):
    """Learn from pairs of answers; the reference is the model that training starts from (Rafailov et al. 2023)."""

    type: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the tuned model is held to the reference."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """sigmoid (arXiv:2305.18290), hinge (SLiC, arXiv:2305.10425), ipo (arXiv:2310.12036), robust (arXiv:2403.00409)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that may be the wrong way round: conservative DPO with sigmoid, unbiased with robust."""
    length_normalised: bool = False
    """Compare log-probabilities per token instead of per answer; ipo always does."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the better answer's own loss per token beside the comparison (RPO, arXiv:2404.19733)."""

    @model_validator(mode="after")
    def _smoothing_has_a_meaning(self) -> Dpo:
        if self.label_smoothing and self.loss_type not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing goes with loss_type sigmoid or robust, not {self.loss_type}")
        return self

    @property
    def needs(self) -> Needs:
        """The reference."""
        return Needs(reference=True)

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over pairs; also how far apart the two answers are, and in how many pairs the better one leads."""
        logprobs = output.logprobs(batch.targets)
        gains = sequence_sums(logprobs - batch.column("reference"), batch)
        per = sequence_tokens(batch)
        scale = per if self.length_normalised or self.loss_type == "ipo" else per.new_ones(len(per))
        better, worse = pairs(gains / scale, batch)
        total = self._of(better - worse).sum()
        if self.sft_weight:
            own, _ = pairs(sequence_sums(logprobs, batch) / per, batch)
            total = total - self.sft_weight * own.sum()
        return total, reported(self.beta * better, self.beta * worse)

    def _of(self, apart: Tensor) -> Tensor:
        """The loss `[P]` of log-ratios that are so far apart."""
        from torch.nn.functional import logsigmoid, relu

        scaled, smooth = self.beta * apart, self.label_smoothing
        if self.loss_type == "hinge":
            return relu(1 - scaled)
        if self.loss_type == "ipo":
            return (apart - 1 / (2 * self.beta)) ** 2
        if self.loss_type == "robust":
            return (-(1 - smooth) * logsigmoid(scaled) + smooth * logsigmoid(-scaled)) / (1 - 2 * smooth)
        return -(1 - smooth) * logsigmoid(scaled) - smooth * logsigmoid(-scaled)
