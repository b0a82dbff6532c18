"""Pipeline parallel: every rank holds some of the layers, and micro-batches go through them one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.distributed.mesh import Axes
from luthier.distributed.together import Cut, Size
from luthier.errors import UserError

if TYPE_CHECKING:
    from luthier.config import RunConfig
    from luthier.distributed.stages import PipelineStrategy


class Pipeline(Cut):
    """Every process holds some of the layers; start with `luthier train CONFIG --devices N` or torchrun."""

    type: Literal["pipeline"] = "pipeline"
    pipeline: Size = 0
    """Processes that hold one copy of the model; 0: all."""
    schedule: Literal["1f1b", "gpipe", "interleaved", "zero-bubble", "zbv"] = "1f1b"
    """The order of work: each rank with one stage (1f1b, gpipe), or with two, which wait less and send more."""

    def require(self, config: RunConfig) -> None:
        """Of the objectives those that ask for words, and no answers on the way."""
        super().require(config)
        self.allow(config, "adapter", ("lora", "full", "freeze", "bottleneck", "ia3"), "parallel: fsdp")
        self.require_plain_lora(config)
        self.allow(config.train, "optimizer", ("adamw", "lion"), "parallel: fsdp")
        if config.objective.type == "reward":
            raise UserError("parallel: pipeline has no head of one number at its end; write parallel: fsdp")
        if config.evaluate.metrics or config.evaluate.kinds:
            raise UserError(
                "evaluate.metrics: a model whose layers are on several processes answers nothing; measure the tuned "
                "one with: luthier evaluate"
            )

    def open(self) -> PipelineStrategy:
        """Join the process group that torchrun describes.

        Raises:
            UserError: the process was not started by torchrun, or the number of processes does not fit.
        """
        from luthier.distributed.stages import PipelineStrategy

        axes = Axes(data=0, pipeline=self.pipeline) if self.pipeline else Axes(pipeline=0)
        return PipelineStrategy(self.join(axes), self.schedule)
