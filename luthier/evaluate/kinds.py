"""A kind of evaluation measures the rows that it is made for, and says what it found of each.

What it does: says whether it `takes` a row; cuts rows into portions, always the same ones, and measures each at once.
What it must not know: files, other models, what is made of the results.
How to add one: a class with these two methods, one line in `plugins.BUILT_IN["evaluation"]` (or an entry point
`luthier.evaluation`). Import torch inside the methods.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from luthier.config import EvaluateConfig
from luthier.curate.likelihood import answered
from luthier.data.conversation import Choices, Content, Preference, conversations
from luthier.errors import RowError
from luthier.evaluate.metrics import Metric
from luthier.evaluate.question import question
from luthier.inference.engine import Engine, Sampling
from luthier.plugins import Part

if TYPE_CHECKING:
    from luthier.data.pack import Example, Layout
    from luthier.data.render import Renderer, Tokens
    from luthier.evaluate.loss import RowLoss
    from luthier.models.output import Forward

AT_ONCE = 64
"""Questions that are answered between two times that answers are written down; of like length."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is measured, and how it is asked."""

    model: Any
    renderer: Renderer
    forward: Forward
    layout: Layout
    engine: Engine
    config: EvaluateConfig
    dropped: list[str] = field(default_factory=list)
    """Rows that a kind could not use, and why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one row: statistics by metric, and in words what was expected and what the model said.

    Results of two models are compared where `check` is the same: a loss is a sum over certain tokens.
    """

    counts: dict[str, list[float]]
    answer: str = ""
    reference: str = ""
    check: str = ""
    more: dict[str, Any] = field(default_factory=dict)


Portion = tuple[Sequence[int], Callable[[], Sequence[Found]]]
"""Rows by their number, and what measures them."""


class Kind(Part):
    """Base of the kinds of evaluation."""

    @abstractmethod
    def takes(self, content: Content) -> bool:
        """Whether it is made for such a row."""

    @abstractmethod
    def portions(self, rows: Sequence[Example], subject: Subject) -> list[Portion]:
        """The rows in portions; raises UserError for settings that do not fit them."""


class Likelihood(Kind):
    """Base of what is told from the likelihood of sequences: `sequences` of a row, and `found` from their sums."""

    def portions(self, rows: Sequence[Example], subject: Subject) -> list[Portion]:
        """Packed as in training."""
        from luthier.data.pack import plan
        from luthier.evaluate.loss import sequence_losses

        made: dict[int, Example] = {}
        for i, row in enumerate(rows):
            try:
                made[i] = replace(row, sequences=tuple(self.sequences(row, subject.renderer)))
                require_places(made[i], subject.model)
            except RowError as error:
                made.pop(i, None)
                subject.dropped.append(f"{row.origin}: {self.type}: {error.detail}")

        def measured(group: list[int]) -> Sequence[Found]:
            told = sequence_losses(subject.model, subject.forward, [made[i] for i in group], subject.layout)
            return [self.found(made[i], losses) for i, losses in zip(group, told, strict=True)]

        numbers, sizes = list(made), [subject.layout.size(row) for row in made.values()]
        groups = plan(sizes, subject.layout, ranks=1)[0] if made else []
        return [(group := [numbers[i] for i in places], partial(measured, group)) for places in groups]

    @abstractmethod
    def sequences(self, row: Example, renderer: Renderer) -> Sequence[Tokens]:
        """The sequences to be measured."""

    @abstractmethod
    def found(self, row: Example, losses: Sequence[RowLoss]) -> Found:
        """What the negative log-likelihoods of its sequences say about a row."""


class Loss(Likelihood):
    """Negative log-likelihood of what is learnt from a row, per token."""

    type: Literal["loss"] = "loss"

    def takes(self, content: Content) -> bool:
        """Every row but those that only ask."""
        return answered(content) is not None

    def sequences(self, row: Example, renderer: Renderer) -> Sequence[Tokens]:
        """As they were rendered when the row was read."""
        return row.sequences

    def found(self, row: Example, losses: Sequence[RowLoss]) -> Found:
        """The sum, and over how many tokens."""
        seen = hashlib.blake2b(digest_size=8)
        for tokens in row.sequences:
            seen.update(tokens.ids.tobytes() + (tokens.weights > 0).tobytes())
        counts = [sum(loss.total for loss in losses), float(sum(loss.tokens for loss in losses))]
        return Found({"loss": counts}, check=seen.hexdigest())


class Pairwise(Likelihood):
    """How often the better of two answers is the likelier one (reward accuracy), as a whole and per token."""

    type: Literal["pairwise"] = "pairwise"

    def takes(self, content: Content) -> bool:
        """Pairs of answers."""
        return isinstance(content, Preference)

    def sequences(self, row: Example, renderer: Renderer) -> Sequence[Tokens]:
        """Each with its last answer supervised."""
        return [renderer.conversation(talk)[-1] for talk in conversations(row.content)]

    def found(self, row: Example, losses: Sequence[RowLoss]) -> Found:
        """1 for the right order; a tie is a half."""
        whole = [loss.total for loss in losses]
        each = [loss.total / max(loss.tokens, 1) for loss in losses]
        won = {"pair_acc": whole, "pair_acc_norm": each}
        return Found({name: [((a < b) + (a <= b)) / 2, 1.0] for name, (a, b) in won.items()}, more={"losses": whole})


class Generate(Kind):
    """Answers in words, scored by `evaluate.metrics`."""

    type: Literal["generate"] = "generate"

    def takes(self, content: Content) -> bool:
        """Questions with an answer, or with tests; of those with options the letters are looked at."""
        return not isinstance(content, Choices) and question(content) is not None

    def portions(self, rows: Sequence[Example], subject: Subject) -> list[Portion]:
        """Questions of like length together; none where there are no metrics."""
        asked = [found for row in rows if (found := question(row.content))][: subject.config.limit]
        metrics, config = [cast(Metric, metric) for metric in subject.config.metrics], subject.config

        def asked_of(group: list[int]) -> Sequence[Found]:
            prompts = [asked[i].prompt for i in group for _ in range(config.samples)]
            sampling = Sampling(config.max_new_tokens, config.temperature, seed=group[0] * config.samples)
            said = dict(subject.engine.generate(prompts, sampling))
            result = []
            for place, i in enumerate(group):
                answers = [said[place * config.samples + n] for n in range(config.samples)]
                counts = {k: v for metric in metrics for k, v in metric.statistics(answers, asked[i]).items()}
                more = {"answers": answers} if config.samples > 1 else {}
                result.append(Found(counts, answers[0], asked[i].reference or str(asked[i].calls or ""), more=more))
            return result

        order = sorted(range(len(asked)), key=lambda i: (sum(len(m.content) for m in asked[i].prompt.messages), i))
        groups = [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)] if metrics else []
        return [(group, partial(asked_of, group)) for group in groups]


def require_places(row: Example, model: Any) -> None:
    """Refuse rows beyond the positions that a model knows, where it answers noise; raises RowError."""
    places, length = (
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
        max(map(len, row.sequences)),
    )
    if places and length > places:
        raise RowError("", "over-length", f"{length} tokens, the model knows {places} positions")
