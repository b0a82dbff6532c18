"""`luthier check CONFIG`: what would go wrong silently, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.cli.train import ConfigFile, Overrides, read_any
from luthier.config import RunConfig

if TYPE_CHECKING:
    from luthier.train.check import Ready


def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Refuse what would train wrongly, with file, line and row; show two rows as the model sees them."""
    from luthier.cli.show import console

    ready = show_check(read_any(config, overrides or []))
    steps = f"{len(ready.data.train)} rows, {sum(e.tokens for e in ready.data.train):,} tokens"
    trained = sum(e.supervised for e in ready.data.train)
    console.print(f"ok: {steps}, {trained:,} of them trained")


def show_check(run: RunConfig) -> Ready:
    """Check and print; raises CheckFailed when something must not be trained."""
    from luthier.cli import show
    from luthier.factory import Factory

    ready = Factory().check(run)
    show.readings(ready.data)
    for sample in ready.report.samples:
        show.rendered(sample)
    show.findings(ready.report)
    ready.report.require_no_errors()
    return ready
