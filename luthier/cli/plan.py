"""`luthier plan MODEL --devices 64`: how a run would be spread over many devices; loads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.check import size
from luthier.cli.train import Overrides, read_any
from luthier.config import RunConfig, apply_override, parse_config

if TYPE_CHECKING:
    from luthier.distributed.mesh import Axes
    from luthier.planner.choose import Plan
    from luthier.planner.costs import Estimate

SHOWN = 8
"""Layouts of each table."""
CONFIGS = (".yaml", ".yml", ".json")


def plan(
    model: Annotated[
        str, typer.Argument(help="A config, or a model: a name, a hub id, a folder with its config.json.")
    ],
    overrides: Overrides = None,
    *,
    devices: Annotated[int, typer.Option(help="How many there are.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Which: a100, h100, h200, b200, l40s, rtx4090 or cpu.")] = "h100",
    memory: Annotated[
        str | None, typer.Option(help="Of each, such as 80GB; by default what such a device has.")
    ] = None,
    together: Annotated[
        int | None, typer.Option(help="How many are in one machine; by default as such devices come.", min=1)
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a row.", min=1)] = 2048,
    rows: Annotated[
        int | None, typer.Option(help="Rows of a step; by default train.batch_size, or one for each device.", min=1)
    ] = None,
) -> None:
    """Say which layouts fit into memory, what each sends and how long a step takes, and what to write for the best."""
    run = _config(model, overrides or [])
    room = size(memory, "--memory")
    from luthier.cli.show import console
    from luthier.planner.choose import device as described
    from luthier.planner.choose import plan as all_layouts
    from luthier.planner.costs import Work
    from luthier.planner.shape import Shape
    from luthier.system.hardware import Precision, micro_batch_tokens

    usual: Precision = "fp32" if device == "cpu" else "bf16"
    precision = usual if run.train.precision == "auto" else run.train.precision
    one = described(device, precision, memory=room, together=together)
    shape = Shape(run, precision)
    counts = shape.whole
    at_once = max(micro_batch_tokens(run.train.micro_batch_tokens, "cpu" if device == "cpu" else "cuda") // length, 1)
    work = Work(rows or (run.train.batch_size if _is_config(model) else devices), length, at_once)
    console.print(
        f"{counts.numbers / 1e9:.2f} billion weights, {counts.trained / 1e9:.3g} billion trained ({run.adapter.type}, "
        f"{precision}); steps of {work.rows} rows of {length} tokens; {devices} x {device}, {one.memory / 1e9:.3g} GB"
    )
    _show(all_layouts(shape, devices, work, one), work.rows * length, devices)


def _is_config(model: str) -> bool:
    return model.endswith(CONFIGS) and Path(model).name != "config.json"


def _config(model: str, overrides: list[str]) -> RunConfig:
    """A run's config, or one of the defaults for a model."""
    if _is_config(model):
        return read_any(model, overrides)
    path = str(Path(model).parent) if model.endswith("config.json") else model
    tree = {"model": path, "data": {"train": ["rows.jsonl"]}, "output": "runs/plan"}
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree)


def _show(found: Plan, tokens: int, devices: int) -> None:
    from luthier.cli.show import console, table
    from luthier.planner.choose import written

    heads = ("layout", "GB", "weights", "grads", "optimizer", "activations", "gathered", "sent GB", "idle", "s/step")
    if found.fitting:
        rows = [_row(made) for made in found.fitting[:SHOWN]]
        table("what fits, the quickest first", (*heads, "tokens/s/device"), [
            (*row, f"{tokens / made.seconds / devices:,.0f}") for row, made in zip(rows, found.fitting, strict=False)
        ])  # fmt: skip
    if found.too_large:
        table("what does not fit, the smallest first", heads, [_row(made) for made in found.too_large[: SHOWN // 2]])
    for reason, count in found.impossible.items():
        console.print(f"{count} more cannot be: {reason}", markup=False)
    if not found.fitting:
        console.print(
            "nothing fits; what takes less: train.gradient_checkpointing=true, adapter=lora, a smaller --length, or "
            "more --devices"
        )
        raise typer.Exit(1)
    best = found.fitting[0]
    said = ", ".join(f"{key}: {value}" for key, value in written(best.axes, best.kind).items())
    console.print(f"\nwrite       parallel: {{{said}}}", markup=False)


def layout(axes: Axes) -> str:
    """In words."""
    sizes = {name: getattr(axes, name) for name in ("pipeline", "data", "shard", "sequence", "tensor")}
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one device"


def _row(made: Estimate) -> tuple[str, ...]:
    parts = [f"{size / 1e9:.1f}" for size in made.memory[:-1]]
    sent, idle = sum(made.sent.values()) / 1e9, made.waiting / made.seconds
    return (layout(made.axes), f"{made.bytes / 1e9:.1f}", *parts, f"{sent:.1f}", f"{idle:.0%}", f"{made.seconds:.3g}")
