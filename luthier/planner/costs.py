"""What each process holds, sends and computes in a step, by arithmetic.

Sources: what FSDP holds and sends (Zhao et al. 2023, arXiv:2304.11277, section 3), tensor parallel all-reduces
(Shoeybi et al. 2019, arXiv:1909.08053, figure 3), the bubble of a pipeline (Narayanan et al. 2021, arXiv:2104.04473,
section 2.2), exchanges of sequence parallel attention (Jacobs et al. 2023, arXiv:2309.14509, section 3.2). An
all-gather or reduce-scatter of B bytes among n sends B (n - 1) / n from each, an all-reduce twice that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from luthier.distributed.mesh import Axes
from luthier.planner.shape import Shape
from luthier.supplies import shipped

WIDE = 4
"""Bytes of a gradient, and of each of the two numbers that AdamW keeps."""
MOMENTS = 2 * WIDE


@dataclass(frozen=True, slots=True)
class Device:
    """What one device does: operations and bytes a second, bytes; `together` stand in one machine."""

    flops: float
    memory: float
    near: float
    far: float
    together: int
    efficiency: float
    taken: float

    def seconds(self, sent: float, span: int) -> float:
        """To send so many bytes among neighbours of which the farthest are so many devices apart."""
        return sent / (self.near if span <= self.together else self.far)


DEVICES: Mapping[str, Mapping[str, Any]] = shipped("luthier.planner", "devices.yaml")


class Work(NamedTuple):
    """A step: `rows` of `length` tokens, so many of them in a micro-batch."""

    rows: int
    length: int
    micro_rows: int = 1


class Taken(NamedTuple):
    """Bytes of the process that holds most, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int
    """Whole layers of a model that is cut into pieces, while they are needed; buckets in which gradients are sent."""
    other: int
    """What drivers and libraries hold."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A layout: memory by part, bytes that one process sends in a step by axis, and seconds."""

    axes: Axes
    kind: str
    micro_batches: int
    memory: Taken
    sent: Mapping[str, float]
    compute: float
    waiting: float
    """Seconds in which nothing is computed, since others are waited for or sent to."""
    bubble: float
    """The share of a pipeline's time in which a stage has nothing to do."""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.compute + self.waiting

    @property
    def bytes(self) -> int:
        """Of the process that holds most."""
        return sum(self.memory)


def estimate(shape: Shape, axes: Axes, work: Work, device: Device) -> Estimate:
    """What a layout takes. All layers are taken to be alike."""
    shares = axes.data * axes.shard
    together = min(work.micro_rows, work.rows // shares)
    micro_batches = -(-work.rows // shares // together)
    tokens = -(-together * work.length // axes.sequence)
    kind = _kind(axes)
    sent = _sent(shape, axes, micro_batches, tokens)
    compute = _flops(shape, work) / (axes.tensor * axes.pipeline * axes.sequence * shares)
    compute /= device.flops * device.efficiency
    bubble = (axes.pipeline - 1) / (micro_batches + axes.pipeline - 1)
    hidden, exposed = _times(axes, sent, device)
    in_vain = compute * bubble / (1 - bubble) + exposed + max(hidden - compute * 2 / 3, 0)  # sent in backward passes
    memory = _memory(shape, axes, micro_batches, tokens)._replace(other=int(device.taken))
    return Estimate(axes, kind, micro_batches, memory, sent, compute, in_vain, bubble)


def _kind(axes: Axes) -> str:
    """The strategy that makes this layout."""
    if axes.pipeline > 1:
        return "pipeline"
    if axes.tensor > 1:
        return "tensor"
    if axes.sequence > 1:
        return "sequence"
    return "fsdp" if axes.shard > 1 else "ddp" if axes.data > 1 else "single"


# ---- memory ------------------------------------------------------------------------------------------------------


def _memory(shape: Shape, axes: Axes, micro_batches: int, tokens: int) -> Taken:
    """Of the fullest process: of a pipeline the first or the last."""
    layers = -(-shape.layers // axes.pipeline)
    held = shape.held(tokens, axes.tensor)
    ends, activations = shape.ends, held.layer * layers + held.once
    if axes.pipeline > 1:
        ends = ends if shape.tied else ends // 2
        waiting = min(axes.pipeline, micro_batches)  # micro-batches that the first stage has begun
        activations = max(activations, held.layer * (layers * waiting + 1))  # and what a backward pass makes of a layer
    owned = shape.layer(axes.tensor) * layers + ends
    pieces = axes.shard * axes.sequence if axes.shard > 1 else 1  # as parts of rows hold pieces of one copy
    mine, gathered = owned // pieces, 0
    if pieces > 1:  # a layer and the next one, and what stands around them; whole gradients come as activations go
        gathered = 2 * shape.layer().bytes + shape.ends.bytes
    elif _kind(axes) == "ddp" and micro_batches > 1:  # added up beside the buckets that are sent
        gathered = WIDE * owned.trained
    return Taken(mine.bytes, WIDE * mine.trained, MOMENTS * mine.trained, activations, gathered, 0)


# ---- what is sent ------------------------------------------------------------------------------------------------


def _sent(shape: Shape, axes: Axes, micro_batches: int, tokens: int) -> dict[str, float]:
    """Bytes that one process sends in a step, by axis."""
    layers = -(-shape.layers // axes.pipeline)
    activations = tokens * shape.width * (4 if shape.precision == "fp32" else 2)
    owned = shape.layer(axes.tensor) * layers + (shape.ends if axes.pipeline == 1 else shape.ends // 2)
    found: dict[str, float] = {}
    passes = 3 if shape.config.train.gradient_checkpointing else 2

    def part(size: int) -> float:
        return (size - 1) / size

    if axes.data > 1:
        found["data"] = 2 * part(axes.data) * WIDE * owned.trained / axes.shard
    if axes.shard > 1:
        inside = shape.layer() * layers
        found["shard"] = part(axes.shard) * micro_batches * (2 * inside.bytes + shape.ends.bytes + WIDE * owned.trained)
    if axes.tensor > 1:  # behind attention and behind the inner layer, forward and backward
        found["tensor"] = micro_batches * layers * 2 * passes * 2 * part(axes.tensor) * activations
    if axes.sequence > 1:  # queries, keys, values and the answer, forward and backward; and all gradients
        narrow = 2 + 2 * shape.key_value_heads / shape.heads
        found["sequence"] = micro_batches * layers * passes * narrow * part(axes.sequence) * activations
        if axes.shard == 1:
            found["sequence"] += 2 * part(axes.sequence) * WIDE * owned.trained
    if axes.pipeline > 1:
        found["pipeline"] = micro_batches * 2.0 * activations
    return found


def _times(axes: Axes, sent: Mapping[str, float], device: Device) -> tuple[float, float]:
    """Seconds of what can be sent while something is computed, and of what cannot."""
    spans, span = {}, 1
    for name in ("tensor", "sequence", "shard", "data", "pipeline"):  # from the innermost axis on
        span *= getattr(axes, name)
        spans[name] = span
    seconds = {name: device.seconds(size, spans[name]) for name, size in sent.items()}
    hidden = seconds.pop("data", 0.0) + seconds.pop("shard", 0.0) + seconds.pop("pipeline", 0.0)
    return hidden, sum(seconds.values())


def _flops(shape: Shape, work: Work) -> float:
    """Operations of a step: 2 a weight and token forward, 2 backward for what stands before, 2 for trained weights.

    Attention takes 2 products of all pairs of tokens, half of which are not looked at (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1).
    """
    tokens, layers = work.rows * work.length, shape.layers
    head = shape.ends.numbers if shape.tied else shape.ends.numbers / 2
    weights = layers * shape.layer().numbers + head
    trained = layers * shape.layer().trained + (head if shape.ends.trained else 0)
    again = 1 if shape.config.train.gradient_checkpointing else 0
    pairs = 2 * layers * shape.width * work.length / 2
    return tokens * (2 * weights * (2 + again) + 2 * trained + 2 * pairs * (3 + again))
