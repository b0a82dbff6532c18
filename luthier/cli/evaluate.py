"""`luthier evaluate MODEL --data FILE`: what one model does with files of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.config import EvaluateConfig, ModelConfig

if TYPE_CHECKING:
    from luthier.evaluate.measure import Measured

ALL_METRICS = "exact_match,token_f1,chrf,json,tool_calls"
WORST = 5
"""Rows that are shown, of those that a model finds least likely."""
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="A file of rows; several times for several. Without: what the run held out.", metavar="FILE"
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        help="Metrics of generated answers, separated by commas; FILE.py or FILE.py:FUNCTION is one of yours, whose "
        "code runs; '' for none. `luthier plugins` lists them."
    ),
]
NewTokens = Annotated[int, typer.Option(help="Longest generated answer in tokens.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Generate answers to at most so many rows of a file.", min=1)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of how it is measured, for example choice.by=text, choice.shots=5, bleu.tokenize=zh or "
        "samples=10.",
        metavar="KEY=VALUE",
    ),
]


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A folder, hub id, .gguf file, catalogue name or run.", show_default=False)
    ],
    data: Data = None,
    *,
    harness: Annotated[
        list[str] | None,
        typer.Option(help="A task of lm-evaluation-harness, or a YAML file of one; several times.", metavar="TASK"),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the harness's tasks through the chat template.")] = False,
    metrics: Metrics = ALL_METRICS,
    max_new_tokens: NewTokens = 128,
    limit: Limit = None,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="Write what was found of every row to this .jsonl file; goes on if killed."
        ),
    ] = None,
) -> None:
    """Measure one model on files of rows: loss, choices, pairs and answers, whatever the rows are made for."""
    from luthier.cli import show

    config = settings(metrics, max_new_tokens, limit, overrides or ())
    if harness:
        _harness(model, harness, limit=limit, chat=chat)
        if not data:
            return
    for measured in measure_with_bar(model, rows_for(model, data), config, output=output):
        rows = len({record.row for record in measured.records})
        show.console.print(f"[bold]{measured.file}[/]")
        show.metrics({"rows": float(rows), **measured.metrics})
        _slices(measured)
        _worst(measured)
    if output:
        show.console.print(f"rows  {output}", markup=False)


def _harness(model: str, tasks: Sequence[str], *, limit: int | None, chat: bool) -> None:
    from luthier.cli import show
    from luthier.evaluate.harness import harness
    from luthier.models.load import ModelLoader

    show.share_cores()
    loader, config = ModelLoader(), ModelConfig(path=model)
    found = harness(loader.load_for_use(config), loader.renderer(config), tasks, limit=limit, chat=chat)
    for name, metrics in found.items():
        show.console.print(f"[bold]{name}[/]")
        show.metrics(metrics)


def settings(metrics: str, max_new_tokens: int, limit: int | None, overrides: Sequence[str]) -> EvaluateConfig:
    """The options of a verb as the config's section; raises ConfigError for an unknown metric or setting."""
    from luthier.config import apply_override, parse_section

    chosen = [_metric(name.strip()) for name in metrics.split(",") if name.strip()]
    kinds = [{"type": name} for name in ("loss", "choice", "pairwise", "generate")]
    tree = {"metrics": chosen, "max_new_tokens": max_new_tokens, "limit": limit, "kinds": kinds}
    parts = {part["type"]: part for part in (*chosen, *kinds)}
    for override in overrides:
        first, _, rest = override.partition(".")
        apply_override(parts.get(first, tree), rest if first in parts else override)
    return parse_section(EvaluateConfig, tree, source="options")


def _metric(name: str) -> dict[str, Any]:
    """A metric by its name, or by the file that has it."""
    path, _, function = name.partition(".py")
    own = {"type": "python", "path": f"{path}.py", **({"function": function[1:]} if function else {})}
    return own if ".py" in name else {"type": name}


def rows_for(run: str, data: list[str] | None) -> list[str]:
    """The files to measure on; without any those that a run held out."""
    from luthier.evaluate.measure import held_out_of
    from luthier.models.load import ModelLoader

    return data or held_out_of(run, ModelLoader())


def measure_with_bar(
    model: str, files: list[str], config: EvaluateConfig, *, output: str | None = None
) -> list[Measured]:
    """Measure with a progress bar; says which rows could not be used."""
    from luthier.cli import show

    show.share_cores()
    from luthier.evaluate.measure import measure
    from luthier.models.load import ModelLoader

    with show.progress() as bar:
        task = bar.add_task(f"measuring {model}", total=None, note="")

        def on_file(file: str, work: int) -> Callable[[int], object]:
            bar.update(task, total=work, completed=0, note=file)
            return lambda done: bar.advance(task, done)

        path = Path(output) if output else None
        results = measure(ModelLoader(), ModelConfig(path=model), files, config, on_file=on_file, output=path)
    for result in results:
        for row in result.dropped:
            show.console.print(f"  left out {row}", markup=False)
    return results


def _worst(measured: Measured) -> None:
    """The rows that the model finds least likely."""
    from luthier.cli import show

    found = [(record.scores["loss"], record) for record in measured.records if "loss" in record.counts]
    worst = sorted(found, key=lambda one: -one[0])[:WORST] if len(found) > WORST else []
    if worst:
        rows = [(record.where, record.question[:60], show.number(loss)) for loss, record in worst]
        show.table("rows that it finds least likely", ("row", "asked", "loss"), rows)


def _slices(measured: Measured) -> None:
    """Each metric by source, language, length and subject of the rows, where there are several."""
    from luthier.cli import show
    from luthier.evaluate.records import by_slice, totals

    for name, groups in by_slice(measured.records).items():
        found: Mapping[str, Mapping[str, float]] = {value: totals(records) for value, records in groups.items()}
        columns = list(dict.fromkeys(metric for values in found.values() for metric in values))
        rows = [
            (value, len({r.row for r in groups[value]}), *(show.number(v[c]) if c in v else "" for c in columns))
            for value, v in found.items()
        ]
        show.table(f"by {name}", (name, "rows", *columns), rows)
