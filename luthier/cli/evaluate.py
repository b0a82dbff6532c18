"""`luthier evaluate MODEL --data FILE`: loss and scored answers of one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.config import EvaluateConfig, ModelConfig

if TYPE_CHECKING:
    from luthier.evaluate.measure import Measured

ALL_METRICS = "exact_match,token_f1,chrf"
Data = Annotated[list[str], typer.Option("--data", help="A file of rows; may be given several times.", metavar="FILE")]
Metrics = Annotated[str, typer.Option(help="Metrics of generated answers, separated by commas; '' for loss only.")]
NewTokens = Annotated[int, typer.Option(help="Longest generated answer in tokens.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Generate answers to at most so many rows of a file.", min=1)]


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A folder, hub id, .gguf file, catalogue name or run.", show_default=False)
    ],
    data: Data,
    *,
    metrics: Metrics = ALL_METRICS,
    max_new_tokens: NewTokens = 128,
    limit: Limit = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write every answer to this .jsonl file.")
    ] = None,
) -> None:
    """Measure one model on files of rows."""
    import json

    from luthier.cli import show
    from luthier.system.files import write_text

    rows: list[dict[str, object]] = []
    for measured in measure_with_bar(model, data, settings(metrics, max_new_tokens, limit)):
        values = {"rows": float(len(measured.examples)), "loss": measured.loss}
        for name in measured.answered[0].scores if measured.answered else ():
            values[name] = sum(row.scores[name] for row in measured.answered) / len(measured.answered)
        show.console.print(f"[bold]{measured.file}[/]")
        show.metrics(values)
        rows += _answers(measured)
    if output:
        write_text(Path(output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        show.console.print(f"answers  {output}", markup=False)


def settings(metrics: str, max_new_tokens: int, limit: int | None) -> EvaluateConfig:
    """The options of a verb as the config's section; raises ConfigError for an unknown metric."""
    from luthier.config import parse_section

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    return parse_section(
        EvaluateConfig, {"metrics": names, "max_new_tokens": max_new_tokens, "limit": limit}, source="options"
    )


def measure_with_bar(model: str, files: list[str], config: EvaluateConfig) -> list[Measured]:
    """Measure with a progress bar; says which rows could not be used."""
    from luthier.cli import show

    show.share_cores()
    from luthier.evaluate.evaluator import Evaluator
    from luthier.evaluate.measure import measure
    from luthier.models.load import ModelLoader

    with show.progress() as bar:
        task = bar.add_task(f"measuring {model}", total=None, note="")

        def on_file(file: str, work: int) -> Callable[[int], object]:
            bar.update(task, total=work, completed=0, note=file)
            return lambda done: bar.advance(task, done)

        results = measure(ModelLoader(), Evaluator(), ModelConfig(path=model), files, config, on_file=on_file)
    for result in results:
        for row in result.dropped:
            show.console.print(f"  left out {row}", markup=False)
    return results


def _answers(measured: Measured) -> list[dict[str, object]]:
    """Every answer with its question, what the row says, and the scores."""
    return [
        {"question": a.question.prompt.question, "reference": a.question.reference, "answer": a.answer, **a.scores}
        for a in measured.answered
    ]
