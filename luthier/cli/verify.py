"""`luthier verify FOLDER`: whether an export, or a run, still answers as it did in training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[str, typer.Argument(help="An export, or the output folder of a run.", show_default=False)],
) -> None:
    """Compare a folder with its certificate: files, template, token ids, stop tokens, probabilities and answers."""
    from luthier.cli import show
    from luthier.cli.export import measures

    show.share_cores()
    from luthier.export import certificate

    measures(certificate.verify(Path(folder)))
    show.console.print(f"{folder} answers as it did in training", markup=False)
