"""`luthier data augment`: new rows made of those that are there, each judged by guards."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.cli.source import OPTIONS, SOURCE, chosen_parts, require_place, show_tally, source_of


def augment(
    source: Annotated[str, SOURCE],
    *,
    augmenters: Annotated[str, typer.Option("--with", help="Augmenters (luthier plugins augmenter).")],
    output: Annotated[str, typer.Option("-o", "--output", help="Folder for the new rows and the report.")] = "",
    guards: Annotated[
        str, typer.Option("--guard", help="Guards, in their order (luthier plugins guard).")
    ] = "facts,near-duplicates",
    changes: Annotated[
        list[str] | None, typer.Option("--rule", help="A setting, e.g. --rule synonyms.copies=2.")
    ] = None,
    held_out: Annotated[str, typer.Option(help="Rows that no new row may say or ask.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and write nothing.")] = False,
    options: Annotated[list[str] | None, OPTIONS] = None,
) -> None:
    """Make new rows by rule; those that lose a fact or say what is there already are refused, on record."""
    from luthier.cli import show
    from luthier.config import AugmentConfig, parse_section
    from luthier.data.augment.run import augment_source

    require_place(output, dry_run=dry_run)
    names = {"augment": augmenters, "guard": guards}
    parts = parse_section(AugmentConfig, chosen_parts(names, changes or ()), source="--with, --guard")
    held = source_of(held_out, "auto", ()) if held_out else None
    rows = source_of(source, "auto", options or ())
    read, tally = augment_source(rows, parts.augment, parts.guard, output or None, held_out=held)  # type: ignore[arg-type]
    show_tally(tally, [("rows that can be used", read), ("new rows", tally.kept)], made="made by", gone="refused")
    if output:
        said = f"{output}/rows.jsonl to train on besides; {output}/augmented.md says why others were refused"
        show.console.print(said, markup=False)
