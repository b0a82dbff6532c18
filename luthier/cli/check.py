"""`luthier check CONFIG`: what would go wrong silently, and whether the run fits into memory, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.train import ConfigFile, Overrides, read_any
from luthier.config import RunConfig
from luthier.errors import OutOfMemory, UserError

if TYPE_CHECKING:
    from luthier.factory import Checked
    from luthier.train.fit import Fit

SPARE = 0.95
"""The share of free memory that a run may take: the rest of the machine moves."""


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Make a few steps to see what the run takes of memory and time.")
    ] = True,
    memory: Annotated[
        str | None, typer.Option(help="Memory the run may take, such as 8GB; by default what is free here.")
    ] = None,
) -> None:
    """Refuse what would train wrongly, with file, line and row; say what the run takes and what would make it fit."""
    from luthier.cli.show import console, share_cores

    room = size(memory, "--memory")
    run = read_any(config, overrides or [])
    share_cores()
    from luthier.distributed.strategy import pick_device
    from luthier.system.hardware import free_memory, room_bytes

    most = int(SPARE * room_bytes())
    fit = None
    try:
        checked = show_check(run, most_bytes=most if probe else None)
        fit, counts = checked.fit, _counts(checked)
    except OutOfMemory as error:
        counts = ""
        console.print(f"  {error}", markup=False)
    if fit is not None:
        _show_fit(fit)
    if counts and (fit is None or (fit.measured and fit.peak <= (room or most))):
        console.print(f"ok: {counts}")
        return
    free_memory(pick_device(0))  # of the model that was looked at: others are, in processes of their own
    _propose(run, fit, room or most, most)
    raise typer.Exit(1)


def _counts(checked: Checked) -> str:
    rows = checked.data.train
    tokens, trained = sum(row.tokens for row in rows), sum(row.supervised for row in rows)
    return f"{len(rows)} rows, {tokens:,} tokens, {trained:,} of them trained"


def show_check(run: RunConfig, *, most_bytes: int | None = None) -> Checked:
    """Check and print; raises CheckFailed when something must not be trained."""
    from luthier.cli import show
    from luthier.factory import Factory

    checked = Factory().check(run, most_bytes=most_bytes)
    show.readings(checked.data)
    for sample in checked.report.samples:
        show.rendered(sample)
    show.findings(checked.report)
    checked.report.require_no_errors()
    return checked


def size(said: str | None, option: str) -> int | None:
    """Bytes that an option says, such as 8GB."""
    from luthier.units import ByteSize

    try:
        return None if said is None else ByteSize.parse(said).bytes
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _show_fit(fit: Fit) -> None:
    """Memory by part, and time."""
    from luthier.cli.show import console, table

    rows = [(name, f"{size / 1e9:.2f}") for name, size in fit.parts()]
    if fit.peak > sum(size for _, size in fit.parts()):
        rows.append(("more while the model was loaded and checked", f"{fit.peak / 1e9:.2f}"))
    how = "measured" if fit.measured else "extrapolated"
    table("", ("memory at its peak", "GB"), [*rows, (f"together, {how}", f"{fit.peak / 1e9:.2f}")])
    if fit.seconds_per_step is not None:
        whole = fit.seconds_per_step * fit.steps
        console.print(f"time: {fit.seconds_per_step:.2g} s a step, {fit.steps} steps: {_long(whole)}")


def _long(seconds: float) -> str:
    """A length of time as people say it."""
    size, unit = next(
        ((s, u) for s, u in ((86400, "days"), (3600, "hours"), (60, "minutes")) if seconds >= s), (1, "s")
    )
    return f"about {seconds / size:.2g} {unit}"


def _propose(run: RunConfig, fit: Fit | None, room: int, most: int) -> None:
    """Say that it does not fit, and try what would make it."""
    from luthier.cli.show import COLOURS, console, table
    from luthier.drive.fit import proposals

    takes = "more than there is" if fit is None else f"{'' if fit.measured else 'about '}{fit.peak / 1e9:.2f} GB"
    said = f"the run takes {takes} at its peak, and may take {room / 1e9:.2f} GB"
    console.print(f"[{COLOURS['warning']}]  warning[/] memory: {said}; what would help:")
    rows, answer = [], None
    for tried in proposals(run, fit, room=room, most_bytes=most):
        if tried.fit is None:
            rows.append((tried.change, "", "", tried.reason.splitlines()[0]))
            continue
        fits = tried.fit.measured and tried.fit.peak <= room
        answer = tried.change if fits else None
        seconds = f"{tried.fit.seconds_per_step:.2g}" if tried.fit.seconds_per_step else ""
        rows.append((tried.change, f"{tried.fit.peak / 1e9:.2f}", seconds, "fits" if fits else "does not fit"))
    table("", ("change", "GB", "seconds a step", ""), rows)
    if answer:
        console.print(f"does not fit as it is; add to the command or the config: {answer}", markup=False)
    else:
        console.print("does not fit, nor with any of these; a smaller model or data.max_length is left")
