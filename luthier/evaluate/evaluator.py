"""The evaluator: held-out loss and scored answers of one model. Replaceable: `Factory(evaluator=...)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from luthier.config import EvaluateConfig
from luthier.data.pack import Example, Layout
from luthier.data.render import Renderer
from luthier.distributed.strategy import Strategy
from luthier.evaluate.kinds import Generate
from luthier.evaluate.loss import objective_loss
from luthier.evaluate.measure import measured, subject_of
from luthier.evaluate.records import Journal, Rows, totals
from luthier.models.output import Forward
from luthier.objectives.base import Objective
from luthier.system.hardware import micro_batch_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EvaluatorLike(Protocol):
    """What `Factory(evaluator=...)` takes."""

    def loss(
        self,
        model: Any,
        forward: Forward,
        objective: Objective,
        examples: Sequence[Example],
        layout: Layout,
        *,
        strategy: Strategy,
    ) -> dict[str, float]:
        """Measurements of held-out rows during and after training; `loss` among them chooses the best checkpoint."""

    def answers(
        self, model: PreTrainedModel, renderer: Renderer, examples: Sequence[Example], config: EvaluateConfig
    ) -> dict[str, float]:
        """Measurements of answers, and of what else was asked for."""


class Evaluator:
    """The built-in evaluator."""

    def loss(
        self,
        model: Any,
        forward: Forward,
        objective: Objective,
        examples: Sequence[Example],
        layout: Layout,
        *,
        strategy: Strategy,
    ) -> dict[str, float]:
        """The objective's `loss` and metrics per unit; `perplexity` where its units are tokens."""
        found = objective_loss(model, forward, objective, examples, layout, strategy=strategy)
        return found | {"perplexity": math.exp(min(found["loss"], 700.0))} if objective.counts_tokens else found

    def answers(
        self, model: PreTrainedModel, renderer: Renderer, examples: Sequence[Example], config: EvaluateConfig
    ) -> dict[str, float]:
        """The configured metrics of generated answers, and what the configured kinds find."""
        config = config.model_copy(update={"kinds": [*config.kinds, Generate()]})
        subject = subject_of(model, renderer, config, micro_batch_tokens("auto", model.device.type))
        records = measured(subject, Rows("held out", examples), Journal(None, {}), lambda file, work: lambda done: None)
        return totals(records)
