"""Sequence parallel: every rank holds a part of each long row (Ulysses, Jacobs et al. 2023, arXiv:2309.14509).

Each rank embeds its part of the tokens and takes it through the layers; in attention, parts of rows are exchanged for
parts of the heads, so that each head sees whole rows. Behind the last layer the parts are put together, and every rank
computes the same loss. The model itself may be cut into `shard` pieces besides, as fsdp does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.distributed.mesh import Axes
from luthier.distributed.together import Cut, Size

if TYPE_CHECKING:
    from luthier.config import RunConfig
    from luthier.distributed.ulysses import SequenceStrategy


class SequenceParallel(Cut):
    """Every process holds a part of each row; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["sequence"] = "sequence"
    sequence: Size = 0
    """Parts of a row; 0: as many as there are processes. It must divide the heads of attention."""
    shard: Size = 1
    """Pieces of the model besides, of which each part of a row holds its own."""

    def require(self, config: RunConfig) -> None:
        """Adapters without tokens of their own."""
        super().require(config)
        self.allow(config, "objective", ("sft", "pretrain", "dpo", "kto", "orpo", "simpo", "cpo"), "parallel: fsdp")

    def open(self) -> SequenceStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun, or the number of processes does not fit.
        """
        from luthier.distributed.ulysses import SequenceStrategy

        data = 0 if self.sequence else 1
        return SequenceStrategy(self.join(Axes(data=data, shard=self.shard or 1, sequence=self.sequence)))
