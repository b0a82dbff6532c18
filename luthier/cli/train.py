"""`luthier train CONFIG [key=value ...]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import typer

from luthier.config import RunConfig
from luthier.errors import UserError

ConfigFile = Annotated[
    str,
    typer.Argument(
        help="A YAML or JSON file; those of LLaMA-Factory and Axolotl run too.", metavar="CONFIG", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the config: train.epochs=1 or --train.epochs 1.", metavar="[KEY=VALUE]...", show_default=False
    ),
]


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the resolved config, train nothing.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew even if output.dir holds a run (its files go).")
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Go on with an unfinished run although config or data have changed."),
    ] = False,
    devices: Annotated[int, typer.Option(help="Processes to train with on this machine.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Machines that are all given this command.", min=1)] = 1,
    rendezvous: Annotated[str, typer.Option(help="Where they meet: HOST:PORT of one of them.")] = "",
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", help="How often all start again where one process was lost.", min=0)
    ] = 0,
    on: Annotated[
        Literal["here", "ray"],
        typer.Option(help="Who starts the processes: this machine, or Ray, on it or on the cluster of RAY_ADDRESS."),
    ] = "here",
) -> None:
    """Fine-tune a model; an interrupted run of the same config continues by itself."""
    from luthier.drive.launch import ATTEMPT, recognise

    recognise()
    restart = restart and os.environ.get(ATTEMPT, "0") == "0"
    run = read_any(config, overrides or [], devices=devices, quiet=devices > 1 and not dry_run)
    if dry_run:
        _dry_run(run, restart=restart, allow_changes=allow_changes)
        return
    said = {"--restart": restart, "--allow-changes": allow_changes}
    if all(said.values()):
        raise UserError("--restart begins anew, --allow-changes goes on: say one of them")
    if bool(rendezvous) != (nodes > 1):
        raise UserError("--nodes and --rendezvous belong together: --nodes 2 --rendezvous HOST:29400, on each of them")
    if (devices, nodes, max_restarts, on) != (1, 1, 0, "here"):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"{os.environ['WORLD_SIZE']} processes were started already, as by torchrun or srun; leave out "
                "--devices, --nodes, --max-restarts and --on"
            )
        from luthier.drive import launch

        arguments = ["train", config, *(overrides or []), *(name for name in said if said[name])]
        if on == "ray":
            from luthier.drive.on_ray import launch_on_ray

            sys.exit(launch_on_ray(devices, arguments, restarts=max_restarts))
        if nodes > 1:
            sys.exit(launch.join(nodes, rendezvous, devices, arguments, restarts=max_restarts))
        sys.exit(launch.launch(devices, arguments, restarts=max_restarts))
    fine_tune(run, restart=restart, allow_changes=allow_changes)


def read_any(config: str, overrides: Sequence[str], *, devices: int = 1, quiet: bool = False) -> RunConfig:
    """A config of our own, or of another tool, whose translation is shown; the processes it starts show it again."""
    from luthier.migrate.tools import read_run

    devices = int(os.environ.get("WORLD_SIZE", devices))  # of the processes started for one run
    run, translation = read_run(config, joined(overrides), devices=devices)
    if translation is not None and not quiet:
        from luthier.cli.migrate import show_translation

        show_translation(translation)
    return run


def joined(overrides: Sequence[str]) -> list[str]:
    """`--train.epochs 1` as `train.epochs=1`."""
    result: list[str] = []
    rest = iter(overrides)
    for word in rest:
        result.append(f"{word}={next(rest, '')}" if word.startswith("--") and "=" not in word else word)
    return result


def fine_tune(run: RunConfig, *, restart: bool, allow_changes: bool) -> None:
    """Train with stages and a progress bar, then say what came out and what to type next."""
    from luthier.cli.show import console, metrics, share_cores

    share_cores()
    from luthier.cli.watch import Watcher
    from luthier.factory import Factory
    from luthier.objectives.base import Objective

    watch = Watcher()
    with watch.bar:
        result = Factory().fine_tune(run, observers=[watch], stages=watch, restart=restart, allow_changes=allow_changes)
    folder = run.output.dir
    metrics(result.metrics)
    kept, last = (int(result.metrics[name]) for name in ("final_step", "steps"))
    if kept != last:
        console.print(f"kept         step {kept} of {last}, which has the lowest held-out loss")
    console.print(f"tuned model  {folder}\nreport       {folder}/report.md\nloss plot    {folder}/loss.png")
    if not cast(Objective, run.objective).needs.scores:  # a reward model says nothing
        console.print(f"talk to it   luthier chat {folder}")


def _dry_run(run: RunConfig, *, restart: bool, allow_changes: bool) -> None:
    from luthier.cli.check import show_check
    from luthier.cli.show import console
    from luthier.factory import Factory

    console.print(run.to_yaml(), markup=False)
    Factory().claim(run, show_check(run), restart=restart, allow_changes=allow_changes)
    console.print("dry run: nothing was trained or written")
