"""All layouts of a run on so many devices, and which of them fit and are quickest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from luthier.distributed.mesh import Axes
from luthier.errors import UserError
from luthier.planner.costs import DEVICES, Device, Estimate, Work, estimate
from luthier.planner.shape import Shape
from luthier.plugins import suggestion

ROOM = 0.95
"""The share of a device's memory that a run may take: freed memory is not always of use."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Layouts from the quickest on; those that do not fit, from the smallest on; and why others cannot be."""

    fitting: list[Estimate]
    too_large: list[Estimate]
    impossible: dict[str, int]


def device(name: str, precision: str, *, memory: float | None = None, together: int | None = None) -> Device:
    """A device of the table, with another memory or another number in one machine.

    Raises:
        UserError: it is not in the table.
    """
    if name not in DEVICES:
        raise UserError(f"no device {name!r}; {suggestion(name, DEVICES)}")
    row = dict(DEVICES[name])
    flops = {"bf16": row.pop("bf16"), "fp32": row.pop("fp32")}
    found = Device(flops=flops["fp32" if precision == "fp32" else "bf16"], **row)
    return replace(found, memory=memory or found.memory, together=together or found.together)


def plan(shape: Shape, devices: int, work: Work, device: Device) -> Plan:
    """All layouts that Luthier has a strategy for."""
    found = Plan([], [], {})
    for axes in layouts(devices):
        if reason := _impossible(shape, axes, work):
            found.impossible[reason] = found.impossible.get(reason, 0) + 1
            continue
        made = estimate(shape, axes, work, device)
        (found.fitting if made.bytes <= ROOM * device.memory else found.too_large).append(made)
    found.fitting.sort(key=lambda made: (float(f"{made.seconds:.3g}"), sum(made.sent.values())))  # as quick: plainer
    found.too_large.sort(key=lambda made: made.bytes)
    return found


def layouts(devices: int) -> Iterator[Axes]:
    """Copies of a whole model, of one in pieces, of one with cut layers, with parts of them, or with parts of rows."""
    for inner in (size for size in range(1, devices + 1) if devices % size == 0):
        outer = devices // inner
        if inner == 1:
            yield Axes(data=devices)
            continue
        yield Axes(data=outer, shard=inner)
        yield Axes(data=outer, tensor=inner)
        yield Axes(data=outer, pipeline=inner)
        yield Axes(data=outer, sequence=inner)
        if outer > 1:
            yield Axes(shard=outer, sequence=inner)


def _impossible(shape: Shape, axes: Axes, work: Work) -> str | None:
    shares = axes.data * axes.shard
    if work.rows % shares:
        return f"a step of {work.rows} rows is not shared out evenly (train.batch_size)"
    if axes.tensor > 1 and not shape.can_be_cut(axes.tensor):
        return "tensor: heads or inner width are not divided, or the model has no plan"
    if axes.sequence > 1 and (shape.heads % axes.sequence or shape.key_value_heads % axes.sequence):
        return "sequence: the heads are not divided"
    if axes.pipeline > 1 and not shape.in_stages:
        return "pipeline: not for this kind of model"
    if axes.pipeline > shape.layers:
        return "pipeline: fewer layers than stages"
    return None


def written(axes: Axes, kind: str) -> dict[str, int | str]:
    """The part `parallel` of a config that makes this layout."""
    said: dict[str, int | str] = {"type": kind}
    if kind == "fsdp" and axes.data > 1:
        said["shard"] = axes.shard
    if kind in ("tensor", "pipeline") and axes.data > 1:
        said[kind] = getattr(axes, kind)
    if kind == "sequence":
        said["sequence"] = axes.sequence
        if axes.shard > 1:
            said["shard"] = axes.shard
    return said
