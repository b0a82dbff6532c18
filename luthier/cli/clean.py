"""`luthier data clean` and `restore`: rows mended and dropped by rule, every decision on record."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from luthier.cli.source import FORMAT, OPTIONS, SOURCE, chosen_parts, require_place, show_tally, source_of

USUAL = "repair,secrets,personal,quality,duplicates,near-duplicates"


def clean(
    source: Annotated[str, SOURCE],
    *,
    output: Annotated[str, typer.Option("-o", "--output", help="Folder for the rows and the report.")] = "",
    cleaners: Annotated[
        str, typer.Option("--with", help="Cleaners, in their order (luthier plugins cleaner).")
    ] = USUAL,
    changes: Annotated[
        list[str] | None, typer.Option("--rule", help="A setting, e.g. --rule near-duplicates.threshold=0.9.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that look at rows; 0: this one, or on Ray one for each core.", min=0)
    ] = 0,
    on: Annotated[
        Literal["here", "ray"],
        typer.Option(help="Who looks at rows: this machine, or Ray, on it or on the cluster that RAY_ADDRESS names."),
    ] = "here",
    format: Annotated[str, FORMAT] = "auto",
    options: Annotated[list[str] | None, OPTIONS] = None,
) -> None:
    """Mend and drop rows by rule; what was done is in the ledger, and dropped rows can be put back."""
    from luthier.cli import show
    from luthier.data.clean.run import clean_source

    require_place(output, dry_run=dry_run)
    chosen = chosen_cleaners(cleaners, changes or ())
    rows = source_of(source, format, options or ())
    with show.progress() as bar:
        task = bar.add_task("cleaning", total=rows.limit, note="rows")

        def watch(done: int) -> None:
            bar.update(task, completed=done)

        tally = clean_source(rows, chosen, output or None, workers=workers, on=on, watch=watch)
    show_tally(tally, [("read", tally.read), ("kept", tally.kept)], made="mended by", gone="dropped")
    for note in tally.notes:
        show.console.print(note, markup=False)
    if output:
        show.console.print(f"{output}/rows.jsonl to train on; {output}/report.md says why rows went", markup=False)


def restore(
    folder: Annotated[str, typer.Argument(help="What `luthier data clean` wrote.", show_default=False)],
    rules: Annotated[list[str], typer.Argument(help="Rules whose rows come back.", show_default=False)],
) -> None:
    """Put rows that some rules dropped back; what was mended in them stays mended."""
    from pathlib import Path

    from luthier.cli import show
    from luthier.data.clean.ledger import restored

    count = restored(Path(folder), rules)
    show.console.print(f"{count} rows are back at the end of {folder}/rows.jsonl", markup=False)


def chosen_cleaners(names: str, changes: Any) -> list[Any]:
    """Cleaners by name, with settings changed.

    Raises:
        ConfigError: an unknown name or setting.
        UserError: a setting of a cleaner that was not chosen.
    """
    from luthier.config import CleanConfig, parse_section

    return list(parse_section(CleanConfig, chosen_parts({"clean": names}, changes), source="--with").clean)
