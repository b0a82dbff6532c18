"""The evaluator: held-out loss and scored answers of one model. Replaceable: `Factory(evaluator=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from luthier.config import EvaluateConfig
from luthier.data.pack import Example, Layout
from luthier.data.render import Renderer
from luthier.distributed.strategy import Strategy
from luthier.evaluate.generate import Answered, answer_all, question
from luthier.evaluate.loss import objective_loss
from luthier.evaluate.metrics import Metric
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from luthier.models.output import Forward
from luthier.objectives.base import Objective

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
        """Measurements of generated answers."""


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
        """The mean of each configured metric over generated answers."""
        rows = self.answered(model, renderer, examples, config)
        names = [metric.type for metric in config.metrics]
        return {name: sum(row.scores[name] for row in rows) / len(rows) for name in names} if rows else {}

    def answered(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        examples: Sequence[Example],
        config: EvaluateConfig,
        *,
        on_answers: Callable[[int], object] = lambda done: None,
    ) -> list[Answered]:
        """Greedy answers to the questions among the rows, with their scores."""
        found = [asked for example in examples if (asked := question(example.content)) is not None]
        metrics = [cast(Metric, metric) for metric in config.metrics]
        sampling = Sampling(max_new_tokens=config.max_new_tokens)
        return answer_all(HfEngine(model, renderer), found[: config.limit], metrics, sampling, on_answers=on_answers)
