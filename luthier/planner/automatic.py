"""What `parallel: auto` becomes in several processes: `ddp` where that fits, else what fits and is quickest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import psutil
import torch

from luthier.config import RunConfig
from luthier.distributed.ddp import Ddp
from luthier.distributed.mesh import Axes, world
from luthier.distributed.strategy import StrategySettings, pick_device
from luthier.errors import LuthierError, UserError
from luthier.planner.choose import device, plan, written
from luthier.planner.costs import DEVICES, MOMENTS, WIDE, Device, Work, estimate
from luthier.planner.shape import Shape
from luthier.plugins import load
from luthier.system.hardware import choose_precision, micro_batch_tokens

SURELY = 0.25
"""The share of memory up to which weights, gradients and optimizer leave room for whatever else there is."""


def automatic(config: RunConfig, say: Callable[[str], None]) -> StrategySettings:
    """The strategy of a run; `say` is told why, where it is another than usual.

    All processes come to the same conclusion where their machines are alike: it depends on sizes alone.
    """
    chosen, usual = cast(StrategySettings, config.parallel), cast(StrategySettings, Ddp())
    if chosen.type != "auto" or world() == 1:
        return chosen
    kind = pick_device(0).type
    precision = choose_precision(config.train.precision, kind)
    try:
        shape = Shape(config, precision)
        counts = shape.whole
    except LuthierError:
        return usual  # what is wrong with the model is said when it is loaded
    one = _device(kind, precision)
    if counts.bytes + (WIDE + MOMENTS) * counts.trained < SURELY * one.memory:
        return usual
    length = config.data.max_length
    at_once = max(micro_batch_tokens(config.train.micro_batch_tokens, kind) // length, 1)
    work = Work(-(-config.train.batch_size // world()) * world(), length, at_once)
    whole = estimate(shape, Axes(data=world()), work, one)
    found = plan(shape, world(), work, one)
    if any(made.kind == "ddp" for made in found.fitting):
        return usual
    why = f"the whole model would take {whole.bytes / 1e9:.1f} GB of {one.memory / 1e9:.1f} GB in each process"
    for made in (made for made in [*found.fitting, *found.too_large] if made.kind != "ddp"):
        settings = cast(StrategySettings, load("strategy", made.kind).model_validate(written(made.axes, made.kind)))
        try:
            settings.require(config)
        except UserError:
            continue
        fits = "" if made in found.fitting else ", which may not suffice"
        parts = ", ".join(f"{key}: {value}" for key, value in written(made.axes, made.kind).items())
        say(f"parallel     {{{parts}}}: {why}, and takes about {made.bytes / 1e9:.1f} GB so{fits}")
        return settings
    say(f"warning: parallel: ddp, though {why}; nothing else goes with this run (luthier plan)")
    return usual


def _device(kind: str, precision: str) -> Device:
    """This process's share of what there is, on machines that are all alike."""
    if kind == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        name = torch.cuda.get_device_name(0).lower().replace(" ", "")
        known = next((key for key in DEVICES if key in name), "a100")
        return device(known, precision, memory=memory)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
    return replace(device("cpu", precision, memory=psutil.virtual_memory().total / here), together=here)
