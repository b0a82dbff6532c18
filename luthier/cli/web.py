"""`luthier web`: the board in a browser."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def web(
    folder: Annotated[str, typer.Argument(help="The folder whose files the board may use.")] = ".",
    *,
    port: Annotated[int, typer.Option(help="On which port.", min=0, max=65535)] = 7860,
    host: Annotated[str, typer.Option(help="Where it listens; anywhere but this machine needs --user.")] = "127.0.0.1",
    user: Annotated[
        str, typer.Option(help="Who may use it; the password is asked for, or in LUTHIER_WEB_PASSWORD.")
    ] = "",
) -> None:
    """Open the board: data, training, runs, evaluation and models in a browser."""
    from pathlib import Path

    from luthier.errors import MissingExtra, UserError
    from luthier.system.address import listening, loopback

    if not loopback(host) and not user:
        raise UserError(f"--host {host}: other machines could use this one; name who may by --user NAME")
    password = (os.environ.get("LUTHIER_WEB_PASSWORD") or typer.prompt("password", hide_input=True)) if user else ""
    from luthier.cli.main import app
    from luthier.web.early import import_gradio, waiting

    door, users = listening(host, port), [(user, password)] if user else []
    typer.echo(f"the board is at http://{host}:{door.getsockname()[1]} (Ctrl-C ends it; its jobs go on)")
    with waiting(door):
        try:
            import uvicorn

            import_gradio()
            from luthier.web.app import application
        except ImportError as missing:
            raise MissingExtra("luthier web", str(missing.name), "web") from None
        board = application(Path(folder), typer.main.get_command(app), users=users)
    uvicorn.Server(uvicorn.Config(board, log_level="warning")).run(sockets=[door])
