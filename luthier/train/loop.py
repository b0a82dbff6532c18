"""THE loop. Every objective, adapter and strategy runs through it; there is no second one.

It counts the units of a step over all micro-batches and ranks before the first backward pass, so that the gradient is
that of the mean over units, however the step is cut. It never sees text, a loss formula or a rank's share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from luthier.config import TrainConfig
from luthier.data.loader import LoaderLike, Step
from luthier.data.pack import Batch
from luthier.errors import Interrupted, TrainingError
from luthier.models.output import Forward
from luthier.objectives.base import Objective
from luthier.system.signals import StopRequest
from luthier.train.checkpoint import Trained
from luthier.train.observers.base import Observer, Progress
from luthier.train.optim.base import set_learning_rate
from luthier.train.optim.wrapped import evaluation_weights
from luthier.train.schedule import Schedule, learning_rate, warmup_length
from luthier.train.state import State


@dataclass(frozen=True, slots=True)
class Job:
    """What the loop needs. `model` is what the strategy prepared; `trained.model` is the bare one inside it."""

    model: nn.Module
    trained: Trained
    forward: Forward
    objective: Objective
    loader: LoaderLike
    settings: TrainConfig
    schedule: Schedule
    state: State
    total_steps: int
    evaluate_every: int | None
    evaluate: Callable[[], Mapping[str, float]] | None
    observers: Sequence[Observer]


class TrainerLike(Protocol):
    """What `Factory(trainer=...)` takes."""

    def train(self, job: Job) -> State:
        """Train until the job's last step and return the final state."""


class Trainer:
    """The built-in trainer."""

    def train(self, job: Job) -> State:
        """Run the steps that are left.

        Raises:
            Interrupted: asked to stop; the state was saved by the observers.
            TrainingError: loss or gradients are not finite.
        """
        state = job.state
        for observer in job.observers:
            observer.on_start(state, job.total_steps)
        asked = False
        with StopRequest() as stop:
            steps = job.loader.steps(epoch=state.epoch, position=state.position)
            while state.step < job.total_steps and not asked:
                progress = run_step(job, state, next(steps))  # a step that is not made is not prepared either
                state = progress.state
                wants = [observer.on_step(progress) for observer in job.observers]
                asked = job.trained.strategy.any(stop.requested or any(wants))
        for observer in job.observers:
            observer.on_end(state)
        if asked and state.step < job.total_steps:
            raise Interrupted(
                f"stopped after step {state.step} of {job.total_steps}; a checkpoint was written. "
                "The same command, without --restart, continues from there."
            )
        return state


def run_step(job: Job, state: State, step: Step) -> Progress:
    """One optimizer step, and the evaluation when it is due."""
    started = time.perf_counter()
    strategy, optimizer, adapter = job.trained.strategy, job.trained.optimizer, job.trained.adapter
    units, tokens = strategy.sum(
        [
            sum(job.objective.units(batch) for batch in step.micro_batches),
            sum(segment.length for batch in step.micro_batches for segment in batch.segments if len(batch.targets)),
        ]
    )
    rate = _set_learning_rate(job, state.step)
    sums: dict[str, float] = {}
    noted = statistics(job.objective, job.forward, job.model, step, strategy.device) if step.companions else {}
    noted = dict(zip(noted, strategy.sum(list(noted.values())), strict=True))
    job.model.train()
    batches = [replace(batch, step=noted) for batch in step.micro_batches] if noted else step.micro_batches
    penalty = adapter.penalty(job.trained.model)
    loss = strategy.forward_backward(job.model, batches, _loss_of(job, units, sums, penalty))
    scaler = job.trained.scaler
    if scaler is not None:
        loss = scaler.unscale(optimizer, loss)
    norm = strategy.clip(job.model, job.settings.max_grad_norm)
    skipped = scaler is not None and scaler.overflowed()
    if not (skipped or (math.isfinite(loss) and math.isfinite(norm))):
        rows = ", ".join(str(example.origin) for example in step.examples[:8])
        raise TrainingError(
            f"step {state.step + 1}: loss {loss:g}, gradient norm {norm:g}; nothing was updated. "
            f"Rows of this step: {rows}. A lower learning rate or fp32 usually helps; the last checkpoint is intact."
        )
    penalised = 0.0 if penalty is None else float(penalty.detach())
    if skipped:
        optimizer.zero_grad(set_to_none=True)
    else:
        adapter.before_step(job.trained.model, state.step + 1)
        strategy.step(optimizer)
        adapter.after_step(job.trained.model, state.step + 1)
    state = state.after(tokens=int(tokens), epoch=step.epoch, position=step.position)
    reported = zip(sums, strategy.sum(list(sums.values())), strict=True)
    seconds = time.perf_counter() - started
    evaluation = _evaluate(job, state)
    if evaluation is not None:
        state = state.judged(evaluation["loss"])
    return Progress(
        state=state,
        total_steps=job.total_steps,
        epoch=step.epoch + step.position / len(job.loader.examples),
        loss=loss - penalised,
        learning_rate=rate,
        grad_norm=norm,
        units=int(units),
        tokens=int(tokens),
        seconds=seconds,
        evaluation=evaluation,
        metrics={
            **step.metrics,
            **{name: value / units for name, value in reported},
            **({} if scaler is None else {"loss_scale": scaler.scale, "skipped_steps": scaler.skipped}),
            **({} if penalty is None else {"penalty": penalised}),
        },
    )


def _loss_of(
    job: Job, units: float, sums: dict[str, float], penalty: Tensor | None
) -> Callable[[nn.Module, Batch], Tensor]:
    """The share of one micro-batch in the loss of the step; each rank's first carries its share of the penalty."""
    once = [] if penalty is None else [penalty / job.trained.strategy.ranks]

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        output = job.forward(model, batch)
        total, extra = job.objective.loss(output, batch)
        for name, value in extra.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        share = total / max(units, 1)
        share = share + once.pop() if once else share
        return share if job.trained.scaler is None else job.trained.scaler.scaled(share)

    return loss_of


def statistics(
    objective: Objective, forward: Forward, model: nn.Module, step: Step, device: torch.device
) -> dict[str, float]:
    """What the objective takes from this rank's companions of a step; the model is put into evaluation mode."""
    sums = dict[str, float]()
    model.eval()
    for batch in step.companions:
        here = batch.to(device)
        with torch.no_grad():
            found = objective.statistics(forward(model, here), here)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _set_learning_rate(job: Job, step: int) -> float:
    warmup = warmup_length(job.settings.warmup_steps, job.total_steps)
    peak = job.settings.learning_rate
    rate = learning_rate(job.schedule, step, total_steps=job.total_steps, warmup=warmup, peak=peak)
    set_learning_rate(job.trained.optimizer, rate)
    return rate


def _evaluate(job: Job, state: State) -> Mapping[str, float] | None:
    due = job.evaluate_every is not None and state.step % job.evaluate_every == 0
    if job.evaluate is None or not (due or state.step >= job.total_steps):
        return None
    job.model.eval()
    with evaluation_weights(job.trained.optimizer):
        return job.evaluate()
