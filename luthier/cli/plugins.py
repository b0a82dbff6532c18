"""`luthier plugins [KIND]`: every swappable part, installed ones included."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer


def plugins(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, e.g. adapter.", show_default=False)] = None,
) -> None:
    """List the parts a config can choose from."""
    from luthier.cli.show import table
    from luthier.errors import UserError
    from luthier.plugins import BUILT_IN, load, names, suggestion, target

    if kind is not None and kind not in BUILT_IN:
        raise UserError(f"no kind of plug-in {kind!r}; {suggestion(kind, BUILT_IN)}")
    rows = []
    for one in BUILT_IN if kind is None else [kind]:
        for name in names(one):
            what = (inspect.getdoc(load(one, name)) or "").splitlines()[0]
            origin = "built in" if name in BUILT_IN[one] else target(one, name)
            rows.append((one, name, what, origin))
    table("", ("kind", "name", "what it is", "from"), rows)
