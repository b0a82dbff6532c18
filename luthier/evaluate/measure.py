"""One model on one data file: the loss of every row, and scored answers where asked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.config import DataConfig, EvaluateConfig, ModelConfig, SourceConfig
from luthier.data.conversation import Conversation
from luthier.data.pack import Example, Layout
from luthier.data.processor import DataProcessor
from luthier.data.render import Renderer
from luthier.evaluate.compare import Comparison, Scores, compare
from luthier.evaluate.evaluator import Evaluator
from luthier.evaluate.generate import Answered
from luthier.evaluate.loss import RowLoss, row_losses
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
    renderer = Renderer(models.tokenizer(model), stop_ids=models.stop_ids(model))
    rendered = [rows_of(file, renderer) for file in files]
    loaded = models.load(model)
    forward = Forward(loaded)
    layout = Layout(
        packing=packs(loaded),
        tokens=micro_batch_tokens("auto", next(loaded.parameters()).device.type),
        pad_id=renderer.tokenizer.pad_token_id or 0,
    )
    results = []
    for file, (examples, dropped) in zip(files, rendered, strict=True):
        asked = min(len(examples), config.limit or len(examples)) if config.metrics else 0
        done = on_file(file, len(examples) + asked)
        losses = row_losses(loaded, forward, examples, layout, on_rows=done)
        answers = evaluator.answered(loaded, renderer, examples, config, on_answers=done) if config.metrics else []
        results.append(Measured(file, examples, losses, answers, dropped))
    del loaded, forward
    gc.collect()
    return results


def rows_of(file: str, renderer: Renderer) -> tuple[list[Example], list[str]]:
    """The rendered rows of one file, conversations and plain texts alike, and the rows that could not be used."""
    config = DataConfig(train=[SourceConfig(path=file)], held_out=0.0, max_length=UNLIMITED_TOKENS)
    data = DataProcessor().prepare(
        config,
        renderer,
        lambda content, r: r.conversation(content) if isinstance(content, Conversation) else [r.whole(content)],
    )
    dropped = [f"{e.file}:{e.line}: {e.detail}" for e in data.ledger.entries if e.outcome == "dropped"]
    return data.train, dropped


def compare_measured(base: Measured, tuned: Measured) -> list[Comparison]:
    """Every metric of two models on one file. Loss only where both see the same tokens."""
    result = []
    same = all(_ids(a) == _ids(b) for a, b in zip(base.examples, tuned.examples, strict=True))
    if same:
        per = [float(loss.tokens) for loss in base.losses]
        totals = [[loss.total for loss in side.losses] for side in (base, tuned)]
        result.append(compare(Scores("loss", totals[0], totals[1], per, higher_is_better=False)))
    for name in base.answered[0].scores if base.answered else ():
        columns = [[answer.scores[name] for answer in side.answered] for side in (base, tuned)]
        result.append(compare(Scores(name, columns[0], columns[1], [1.0] * len(columns[0]), higher_is_better=True)))
    return result


def _ids(example: Example) -> list[list[int]]:
    return [sequence.ids.tolist() for sequence in example.sequences]
