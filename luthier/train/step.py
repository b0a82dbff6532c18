"""One optimizer step, or the reason why there was none.

It counts the units of a step over all micro-batches and ranks before the first backward pass, so that the gradient is
that of the mean over units, however the step is cut. A step that must not be made leaves nothing behind: weights,
optimizer and randomness are as if its rows had not been there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from luthier.config import TrainConfig
from luthier.data.loader import LoaderLike, Step
from luthier.data.pack import Batch
from luthier.distributed.strategy import LossOf, Strategy
from luthier.errors import ConfigError, OutOfMemory, Problem
from luthier.models.output import Forward
from luthier.objectives.base import Objective
from luthier.plugins import suggestion
from luthier.system.hardware import is_out_of_memory
from luthier.train.checkpoint import Trained
from luthier.train.memory import held
from luthier.train.observers.base import Observer, Progress
from luthier.train.optim.base import set_learning_rate
from luthier.train.optim.wrapped import evaluation_weights
from luthier.train.schedule import Schedule, learning_rate, warmup_length
from luthier.train.state import State, random_state, restore_random_state

SETTLED_STEPS = 10
"""Steps after which the usual gradient norm is known well enough to tell that one explodes."""


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
    parameters: tuple[int, int] = (0, 0)
    """How many are trained, and how many there are."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that was not made: the state behind its rows, and why, with the rows by name."""

    state: State
    reason: str


def run_step(job: Job, state: State, step: Step) -> Progress | Skipped:
    """One optimizer step.

    Raises:
        OutOfMemory: in the optimizer's own step, which cannot be taken back.
    """
    started = time.perf_counter()
    strategy, optimizer = job.trained.strategy, job.trained.optimizer
    drawn = random_state(strategy.device)
    units, tokens = strategy.sum(
        [
            sum(job.objective.units(batch) for batch in step.micro_batches),
            sum(segment.length for batch in step.micro_batches for segment in batch.segments if len(batch.targets)),
        ]
    )
    rate = _set_learning_rate(job, state.step)
    loss, norm, penalised, sums = _gradients(job, step, units)
    scaler = job.trained.scaler
    overflowed = scaler is not None and scaler.overflowed()
    fault = None if overflowed else _fault(job, state, loss, norm)
    if fault is not None:
        optimizer.zero_grad(set_to_none=True)
        restore_random_state(drawn, strategy.device)
        rows = ", ".join(str(example.origin) for example in step.examples[:8])
        more = f" and {len(step.examples) - 8} more" if len(step.examples) > 8 else ""
        passed = f"; passed over before: {'; '.join(step.dropped)}" if step.dropped else ""
        reason = f"step {state.step + 1} was skipped: {fault}; its rows: {rows}{more}{passed}"
        return Skipped(state.past(epoch=step.epoch, position=step.position), reason)
    _update(job, state.step + 1, overflowed=overflowed)
    state = state.after(tokens=int(tokens), epoch=step.epoch, position=step.position, norm=norm)
    return Progress(
        state=state,
        total_steps=job.total_steps,
        epoch=job.loader.progress(step),
        loss=loss - (penalised or 0.0),
        learning_rate=rate,
        grad_norm=norm,
        units=int(units),
        tokens=int(tokens),
        seconds=time.perf_counter() - started,
        metrics={
            **step.metrics,
            **{name: value / units for name, value in sums.items()},
            **({} if scaler is None else {"loss_scale": scaler.scale, "skipped_steps": scaler.skipped}),
            **({} if penalised is None else {"penalty": penalised}),
            **({"skipped": state.skipped} if state.skipped else {}),
        },
        rows=[example.row for example in step.examples if example.row is not None],
        dropped=step.dropped,
    )


def _gradients(job: Job, step: Step, units: float) -> tuple[float, float, float | None, dict[str, float]]:
    """Loss and gradient norm of a step, the adapter's penalty in that loss, if it has one, and what is reported."""
    strategy = job.trained.strategy
    noted = statistics(job.objective, job.forward, job.model, step, strategy) if step.companions else {}
    job.model.train()
    batches = [replace(batch, step=noted) for batch in step.micro_batches] if noted else step.micro_batches
    penalty = job.trained.adapter.penalty(job.trained.model)
    loss, sums = strategy.forward_backward(job.model, batches, _loss_of(job, units, penalty))
    if job.trained.scaler is not None:
        loss = job.trained.scaler.unscale(job.trained.optimizer, loss)
    norm = strategy.clip(job.model, job.settings.max_grad_norm)
    return loss, norm, None if penalty is None else float(penalty.detach()), sums


def _fault(job: Job, state: State, loss: float, norm: float) -> str | None:
    """Why a step must not be made, or None."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss:g}, gradient norm {norm:g}"
    factor, usual = job.settings.spike_factor, max(state.usual_norm, job.settings.max_grad_norm or 0.0)
    if factor is not None and state.step >= SETTLED_STEPS and usual > 0 and norm > factor * usual:
        return f"gradient norm {norm:g}, more than train.spike_factor={factor:g} times the usual {usual:g}"
    return None


def _update(job: Job, number: int, *, overflowed: bool) -> None:
    """Change the weights, unless gradients overflowed in fp16."""
    trained = job.trained
    if overflowed:
        trained.optimizer.zero_grad(set_to_none=True)
        return
    try:
        trained.adapter.before_step(trained.model, number)
        trained.strategy.step(trained.optimizer)
        trained.adapter.after_step(trained.model, number)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory in the optimizer's step {number} ({held(trained.model, trained.optimizer)}). It cannot be "
            "taken back; the last checkpoint is intact. An optimizer that keeps less (train.optimizer: adamw-8bit or "
            "adafactor), adapter: lora, or fewer trained weights help"
        ) from error


def _loss_of(job: Job, units: float, penalty: Tensor | None) -> LossOf:
    """The part of one micro-batch in the loss of the step; the first of each share carries its part of the penalty."""
    once = [] if penalty is None else [penalty / job.trained.strategy.shares]

    def loss_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        output = job.forward(model, batch)
        total, extra = job.objective.loss(output, batch)
        part = total / max(units, 1)
        part = part + once.pop() if once else part
        return part if job.trained.scaler is None else job.trained.scaler.scaled(part), extra

    return loss_of


def statistics(
    objective: Objective, forward: Forward, model: nn.Module, step: Step, strategy: Strategy
) -> dict[str, float]:
    """What the objective takes from the companions of a step; the model is put into evaluation mode."""
    model.eval()
    return strategy.measure(model, step.companions, lambda m, batch: objective.statistics(forward(m, batch), batch))


def _set_learning_rate(job: Job, step: int) -> float:
    warmup = warmup_length(job.settings.warmup_steps, job.total_steps)
    peak = job.settings.learning_rate
    rate = learning_rate(job.schedule, step, total_steps=job.total_steps, warmup=warmup, peak=peak)
    set_learning_rate(job.trained.optimizer, rate)
    return rate


def evaluated(job: Job, progress: Progress) -> Progress:
    """The step with what the held-out rows say after it, when that is due."""
    state = progress.state
    due = job.evaluate_every is not None and state.step % job.evaluate_every == 0
    if job.evaluate is None or not (due or progress.last):
        return progress
    job.model.eval()
    with evaluation_weights(job.trained.optimizer):
        evaluation = job.evaluate()
    name = job.settings.best_metric
    if name not in evaluation:
        raise ConfigError([Problem("train.best_metric", f"not measured: {name!r}; {suggestion(name, evaluation)}")])
    lower = name.endswith(("loss", "perplexity", "kl"))
    return replace(progress, state=state.judged(evaluation[name] * (1 if lower else -1)), evaluation=evaluation)


def settled(job: Job, state: State) -> bool:
    """Whether so many evaluations were no better that training ends; told by the state, so that a resumed run knows."""
    patience, every = job.settings.patience, job.evaluate_every
    return bool(patience and every and state.better_step and state.step >= state.better_step + patience * every)
