"""`luthier jobs list | log | stop`: commands that run in processes of their own, as those of the board."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Commands that run in processes of their own, as those of the board.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A name from `luthier jobs list`.", show_default=False)]


@app.command("list")
def list_jobs() -> None:
    """All jobs of this machine, with what has become of them."""
    import shlex

    from luthier.cli.show import table
    from luthier.drive.jobs import jobs

    table("", ("job", "", "command"), [(one.name, one.status, shlex.join(one.arguments)) for one in jobs()])


@app.command()
def submit(
    command: Annotated[list[str], typer.Argument(help="What stands behind `luthier`, behind --.", show_default=False)],
) -> None:
    """Run a command when the jobs before it have ended."""
    from luthier.drive.jobs import submit as give

    print(give(command, about=command[0]).name)


@app.command()
def log(name: Name) -> None:
    """What a job has said."""
    from luthier.drive.jobs import job

    print(job(name).log, end="")


@app.command()
def stop(name: Name) -> None:
    """Ask a job to save and end; one that waits does not begin."""
    from luthier.drive.jobs import job

    job(name).stop()
