"""Choose a strategy from how the process was started.

A run of several processes asks the planner first (`luthier.planner.automatic`), which knows the model's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.distributed.ddp import Ddp
from luthier.distributed.mesh import world
from luthier.distributed.single import Single
from luthier.distributed.strategy import Strategy
from luthier.plugins import Part

if TYPE_CHECKING:
    from luthier.config import RunConfig


class Auto(Part):
    """`ddp` under torchrun with several processes, else `single`."""

    type: Literal["auto"] = "auto"

    def _choice(self) -> Ddp | Single:
        return Ddp() if world() > 1 else Single()

    def open(self) -> Strategy:
        """Open the chosen strategy."""
        return self._choice().open()

    def require(self, config: RunConfig) -> None:
        """As the chosen strategy does."""
        self._choice().require(config)

    def ranks(self) -> int:
        """Of the chosen strategy."""
        return self._choice().ranks()
