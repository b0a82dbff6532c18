"""`luthier export MODEL --to FORMAT -o OUT`: a model for others to run, with the code to run it and a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from luthier.data.conversation import Conversation

Model = Annotated[str, typer.Argument(help="A run, folder, hub id, .gguf file or catalogue name.", show_default=False)]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="Rows it is certified with; without, the held-out rows of its run.", metavar="FILE"),
]


def export(
    model: Model,
    *,
    to: Annotated[str, typer.Option(help="A format: luthier plugins lists the exporters.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="A new folder.", show_default=False)],
    precision: Annotated[str | None, typer.Option(help="How weights are kept, such as float16, Q8_0 or int8.")] = None,
    data: Data = None,
    prompts: Annotated[int, typer.Option(help="Rows of --data to certify with.", min=1)] = 50,
    upload: Annotated[
        str | None, typer.Option(help="Say what would be uploaded to this repository of the model hub.", metavar="REPO")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Upload it, into a private repository.")] = False,
) -> None:
    """Write a model in a format that others run, and prove that it answers as it did in training."""
    from luthier.cli import show
    from luthier.config import parse_section
    from luthier.plugins import load

    exporter = parse_section(
        load("exporter", to), {"type": to} | ({"precision": precision} if precision else {}), source="options"
    )
    show.share_cores()
    from luthier.export.base import Subject
    from luthier.export.write import export as write

    subject = Subject(model)
    measured = write(subject, exporter, Path(output), asked(subject, data or [], prompts))
    measures(measured)
    show.console.print(f'exported  {output}\nask it    python {output}/infer.py "What can you do?"', markup=False)
    if upload:
        from luthier.export.hub import upload as sent

        show.console.print(sent(Path(output), upload, dry_run=not yes), markup=False)


def asked(subject: object, files: list[str], limit: int) -> list[Conversation]:
    """The first conversations of some files that the model's template takes."""
    from luthier.data.conversation import Conversation
    from luthier.evaluate.measure import rows_of

    found = [example.content for file in files for example in rows_of(file, subject.renderer)[0]]  # type: ignore[attr-defined]
    return [content for content in found if isinstance(content, Conversation)][:limit]


def measures(measured: dict[str, object]) -> None:
    """What a certificate says."""
    from luthier.cli import show

    told = {
        "prompts": "prompts",
        "log_probability": "largest difference of a log-probability",
        "kl": "mean divergence (nats)",
        "top1": "same likeliest token",
    }
    show.table(
        "",
        ("certified", "value"),
        [(label, f"{measured[name]:.3g}") for name, label in told.items() if name in measured],
    )
