"""One model on one data file: the loss of every row, and scored answers where asked."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.config import DataConfig, EvaluateConfig, ModelConfig, SourceConfig
from luthier.data.conversation import Content, Text, conversations
from luthier.data.pack import Example, Layout
from luthier.data.processor import DataProcessor
from luthier.data.render import Renderer, Tokens
from luthier.evaluate.compare import Comparison, Scores, compare
from luthier.evaluate.evaluator import Evaluator
from luthier.evaluate.generate import Answered
from luthier.evaluate.loss import RowLoss, mean_loss, row_losses
from luthier.models.load import ModelLoader, packs
from luthier.models.output import Forward
from luthier.system.hardware import micro_batch_tokens

UNLIMITED_TOKENS = 2**31 - 1
"""Rows are measured whole: nothing is cut off from what a model is judged by."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A file's rows with their losses and answers under one model."""

    file: str
    examples: list[Example]
    losses: list[RowLoss]
    answered: list[Answered]
    dropped: list[str]

    @property
    def loss(self) -> float:
        """Nats per supervised token over all rows."""
        return mean_loss(self.losses)


def measure(
    models: ModelLoader,
    evaluator: Evaluator,
    model: ModelConfig,
    files: Sequence[str],
    config: EvaluateConfig,
    *,
    on_file: Callable[[str, int], Callable[[int], object]] = lambda file, work: lambda done: None,
) -> list[Measured]:
    """Load a model once and measure it on files; `on_file` is told the work ahead and returns what counts it.

    Raises:
        UserError: the model or a file cannot be read.
    """
    renderer = models.renderer(model)
    rendered = [rows_of(file, renderer) for file in files]
    loaded = models.load_for_use(model)
    forward = Forward(loaded)
    layout = Layout(
        packing=packs(loaded),
        tokens=micro_batch_tokens("auto", next(loaded.parameters()).device.type),
        pad_id=renderer.tokenizer.pad_token_id or 0,
    )
    results = []
    for file, (every, unusable) in zip(files, rendered, strict=True):
        examples, too_long = _within(every, loaded.config.get_text_config())
        asked = min(len(examples), config.limit or len(examples)) if config.metrics else 0
        done = on_file(file, len(examples) + asked)
        losses = row_losses(loaded, forward, examples, layout, on_rows=done)
        answers = evaluator.answered(loaded, renderer, examples, config, on_answers=done) if config.metrics else []
        results.append(Measured(file, examples, losses, answers, [*unusable, *too_long]))
    del loaded, forward
    gc.collect()
    return results


def rows_of(file: str, renderer: Renderer) -> tuple[Sequence[Example], list[str]]:
    """The rendered rows of one file, conversations and plain texts alike, and the rows that could not be used."""
    config = DataConfig(train=[SourceConfig(path=file)], held_out=0.0, max_length=UNLIMITED_TOKENS)
    data = DataProcessor().prepare(
        config,
        renderer,
        _Anything(),
    )
    dropped = [f"{e.file}:{e.line}: {e.detail}" for e in data.ledger.of("dropped")]
    return data.train, dropped


def _within(examples: Sequence[Example], config: Any) -> tuple[list[Example], list[str]]:
    """The rows that fit into the positions a model knows, and the others by name: beyond them it answers noise."""
    places = getattr(config, "max_position_embeddings", None) or UNLIMITED_TOKENS
    longest = [max(map(len, example.sequences)) for example in examples]
    fitting = [example for example, length in zip(examples, longest, strict=True) if length <= places]
    return fitting, [
        f"{example.origin}: {length} tokens, the model knows {places} positions"
        for example, length in zip(examples, longest, strict=True)
        if length > places
    ]


class _Anything:
    """Renders what a file holds: answers to questions, or whole texts; of two answers the better one."""

    joint: ClassVar[bool] = False
    online: ClassVar[bool] = False

    def sequences(self, content: Content, renderer: Renderer) -> list[Tokens]:
        """The sequences to be measured."""
        if isinstance(content, Text):
            return [renderer.whole(content)]
        return renderer.conversation(conversations(content)[0])


def compare_measured(base: Measured, tuned: Measured) -> list[Comparison]:
    """Every metric of two models on the rows of one file that both can use. Loss only where both see the same tokens.

    One model's chat template may refuse rows that the other's takes; such rows are in `Measured.dropped`.
    """
    result = []
    rows = _in_both([e.content_id for e in base.examples], [e.content_id for e in tuned.examples])
    if rows and all(_tokens(base.examples[i]) == _tokens(tuned.examples[j]) for i, j in rows):
        per = [float(base.losses[i].tokens) for i, _ in rows]
        totals = [base.losses[i].total for i, _ in rows], [tuned.losses[j].total for _, j in rows]
        result.append(compare(Scores("loss", *totals, per, higher_is_better=False)))
    asked = answers_of_both(base, tuned)
    for name in base.answered[0].scores if asked else ():
        columns = [first.scores[name] for first, _ in asked], [second.scores[name] for _, second in asked]
        result.append(compare(Scores(name, *columns, [1.0] * len(asked), higher_is_better=True)))
    return result


def answers_of_both(base: Measured, tuned: Measured) -> list[tuple[Answered, Answered]]:
    """The answers of two models to the questions that both were asked."""
    keys = ([(a.question.prompt.content_id, a.question.reference) for a in m.answered] for m in (base, tuned))
    return [(base.answered[i], tuned.answered[j]) for i, j in _in_both(*keys)]


def _in_both(one: Iterable[Hashable], other: Iterable[Hashable]) -> list[tuple[int, int]]:
    """Where each row stands in both lists; equal rows are paired in their order."""
    here, there = _places(one), _places(other)
    return [(place, there[key]) for key, place in here.items() if key in there]


def _places(rows: Iterable[Hashable]) -> dict[tuple[Hashable, int], int]:
    seen: Counter[Hashable] = Counter()
    places = {}
    for place, row in enumerate(rows):
        places[row, seen[row]] = place
        seen[row] += 1
    return places


def _tokens(example: Example) -> list[tuple[list[int], list[bool]]]:
    """What a loss is a sum over: the ids, and which are supervised."""
    return [(sequence.ids.tolist(), (sequence.weights > 0).tolist()) for sequence in example.sequences]
