"""The command `luthier`, and the one place where errors become messages and exit statuses."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from luthier.cli import (
    chat,
    check,
    compare,
    config,
    data,
    deploy,
    doctor,
    evaluate,
    export,
    generate,
    jobs,
    migrate,
    models,
    plan,
    plugins,
    reproduce,
    runs,
    serve,
    train,
    verify,
    web,
)
from luthier.errors import Interrupted, LuthierError, ProcessLost, UserError

app = typer.Typer(
    name="luthier",
    help="Fine-tune language models, with proof that what came out is what was asked for.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings=OVERRIDES)(train.train)
app.command(context_settings=OVERRIDES)(check.check)
app.command(context_settings=OVERRIDES)(plan.plan)
app.command()(migrate.migrate)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(generate.generate)
app.command()(export.export)
app.command()(verify.verify)
app.command()(deploy.deploy)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
app.command()(reproduce.reproduce)
app.add_typer(config.app, name="config")
app.add_typer(jobs.app, name="jobs")
app.command()(plugins.plugins)
app.command()(doctor.doctor)
app.command()(web.web)


def main() -> None:
    """Run the command line. The user's mistakes leave with status 2, an interruption with 130."""
    # Deprecations between the libraries are news for us, not for users.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    try:
        app()
    except LuthierError as error:
        rank = os.environ.get("RANK", "0")
        everywhere = error.exit_status in (UserError.exit_status, Interrupted.exit_status)
        if str(error) and (rank == "0" or not everywhere):  # all ranks meet the same mistake, and one says it
            sys.stdout.flush()
            where = "" if rank == "0" else f" on rank {rank}"
            print(error if isinstance(error, Interrupted) else f"error{where}: {error}", file=sys.stderr)
        if isinstance(error, ProcessLost):  # what torch does at the end of a process waits for the lost one
            sys.stderr.flush()
            os._exit(error.exit_status)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `luthier ... | head`
        sys.stderr.close()
        sys.exit(0)
