"""`luthier generate IN.jsonl -o OUT.jsonl`: answers to many rows; a run that was stopped goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.errors import DataError, OutputError, UserError

if TYPE_CHECKING:
    from luthier.data.conversation import Conversation
    from luthier.inference.engine import Engine

MODEL = "A folder, run, export, hub id, .gguf file or catalogue name; or an endpoint: http://HOST:PORT/v1#MODEL."
NewTokens = Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.", min=0)]
TopP = Annotated[float, typer.Option(help="The likeliest tokens of this total probability.", min=0, max=1)]
KeyVariable = Annotated[str | None, typer.Option(help="The environment variable that holds an endpoint's key.")]


def generate(
    rows: Annotated[str, typer.Argument(help="A file of rows: prompts, or conversations.", show_default=False)],
    *,
    model: Annotated[str, typer.Option(help=MODEL)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The .jsonl file of answers, in the order of the rows.")
    ],
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: Annotated[int, typer.Option(help="So many of the likeliest tokens; 0: all.", min=0)] = 0,
    min_p: Annotated[float, typer.Option(help="Tokens so likely beside the likeliest.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Each row's answer has a seed of its own, numbered from this one.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends an answer; several times.")] = None,
    schema: Annotated[Path | None, typer.Option(help="A file with a JSON schema that answers are held to.")] = None,
    key_variable: KeyVariable = None,
) -> None:
    """Answer every row of a file; after a kill, the same command goes on."""
    import json
    from dataclasses import asdict

    from luthier.cli import show
    from luthier.inference.engine import Sampling
    from luthier.system.files import refused_writes_of, write_text

    try:
        held = schema.read_text(encoding="utf-8") if schema else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--schema {schema}: {error}") from None
    sampling = Sampling(
        max_new_tokens, temperature, top_p, seed, top_k=top_k, min_p=min_p, stop=tuple(stop or ()), schema=held
    )
    asked, part = _asked(rows), output.with_name(f"{output.name}.part")
    ids = [conversation.content_id for _, conversation in asked]
    head = json.loads(json.dumps({"model": model, "rows": ids, **asdict(sampling)}))
    with refused_writes_of(output), show.progress() as bar:
        kept = _kept(part, head)
        task = bar.add_task(f"answering {rows}", total=len(asked), completed=len(kept), note="")
        with part.open("a", encoding="utf-8") as file:
            left = [i for i in range(len(asked)) if i not in kept]
            prompts, seeds = [asked[i][1] for i in left], [seed + i for i in left]
            answers = engine(model, key_variable).generate(prompts, sampling, seeds=seeds) if left else ()
            for i, text in answers:
                kept[left[i]] = text
                file.write(json.dumps({"row": left[i], "answer": text}) + "\n")
                file.flush()
                bar.advance(task)
        lines = [{"line": line, "prompt": talk.question, "answer": kept[i]} for i, (line, talk) in enumerate(asked)]
        write_text(output, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        part.unlink()
    show.console.print(f"answers  {output}", markup=False)


def _asked(file: str) -> list[tuple[int, Conversation]]:
    """The lines of a file's rows and what they ask; raises DataError, RowError."""
    from luthier.cli.source import source_of
    from luthier.data.conversation import Task
    from luthier.data.formats.base import read
    from luthier.data.recognise import recognised
    from luthier.evaluate.question import question

    found, asked = recognised(source_of(file, "auto", ()), file), []
    for row in found.rows:
        content = read(found.format, row)
        put = None if isinstance(content, Task) else question(content)
        talk = content.asked if isinstance(content, Task) else put.prompt if put else None
        if talk is None:
            raise DataError(f"{row.origin}: asks nothing; expected a prompt, or a conversation to be answered")
        asked.append((row.origin.line, talk))
    return asked


def _kept(part: Path, head: dict[str, Any]) -> dict[int, str]:
    """Answers of a run that was stopped, without a line that is torn; raises OutputError for another run's."""
    import json

    from luthier.system.files import write_text

    text = part.read_text(encoding="utf-8") if part.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if lines and lines[0] != head:
        raise OutputError(f"{part}: of a run with another model, other rows or options; remove it to begin anew")
    write_text(part, (json.dumps(line) + "\n" for line in [head, *lines[1:]]))
    return {line["row"]: line["answer"] for line in lines[1:]}


def engine(model: str, key_variable: str | None = None) -> Engine:
    """What answers; an export is looked through for what might harm."""
    from luthier.cli.show import share_cores

    share_cores()
    from luthier.export.safety import require_safe
    from luthier.inference.exported import ExportedEngine, engine_for

    found = engine_for(model, key_variable=key_variable)
    if isinstance(found, ExportedEngine):
        require_safe(Path(model))
    return found
