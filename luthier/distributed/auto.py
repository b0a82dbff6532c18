"""Choose a strategy from how the process was started."""

from __future__ import annotations

import os
from typing import Literal

from luthier.distributed.ddp import Ddp
from luthier.distributed.single import Single
from luthier.distributed.strategy import Strategy
from luthier.plugins import Part


class Auto(Part):
    """`ddp` under torchrun with several processes, else `single`."""

    type: Literal["auto"] = "auto"

    def _choice(self) -> Ddp | Single:
        return Ddp() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Single()

    def open(self) -> Strategy:
        """Open the chosen strategy."""
        return self._choice().open()

    def ranks(self) -> int:
        """Of the chosen strategy."""
        return self._choice().ranks()
