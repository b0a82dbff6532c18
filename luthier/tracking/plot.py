"""The loss of a run as a picture, `loss.png`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.system.files import PREFIX, refused_writes_of
from luthier.tracking.jsonl import FILE, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, HELD_OUT = "#9bb8d3", "#c2410c"


def plot_loss(folder: Path) -> Path | None:
    """Draw training and held-out loss against steps; None where nothing was measured yet.

    Without pyplot, whose figures and backend belong to whoever imported Luthier.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in read_metrics(folder / FILE) if "loss" in row]
    if not rows:
        return None
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    held = [(row["step"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color=TRAIN, linewidth=1.2, label="training, each step")
    axes.plot(steps, _smooth(losses), color="#1d4ed8", linewidth=2, label="training, smoothed")
    if held:
        axes.plot(*zip(*held, strict=True), color=HELD_OUT, marker="o", linewidth=2, label="held-out rows")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    if min(losses) >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return save(figure, folder / "loss.png")


def plot_losses(runs: Mapping[str, Path], target: Path) -> Path:
    """Draw the smoothed training loss and the held-out loss of several runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, folder in runs.items():
        rows = [row for row in read_metrics(folder / FILE) if "loss" in row]
        held = [(row["step"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]
        (line,) = axes.plot([row["step"] for row in rows], _smooth([row["loss"] for row in rows]), label=name)
        axes.plot([step for step, _ in held], [loss for _, loss in held], "o--", color=line.get_color())
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (dashed: held-out rows)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return save(figure, target)


def save(figure: Figure, target: Path) -> Path:
    """Write a picture, whole or not at all; raises StorageError."""
    temporary = target.with_name(f"{PREFIX}{target.name}")
    with refused_writes_of(target):
        try:
            figure.savefig(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _smooth(values: list[float], factor: float = 0.8) -> list[float]:
    """Exponential mean without the bias of its start."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = factor * mean + (1 - factor) * value, factor * weight + (1 - factor)
        result.append(mean / weight)
    return result
