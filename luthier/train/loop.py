"""THE loop. Every objective, adapter and strategy runs through it; there is no second one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from luthier.data.loader import Step
from luthier.errors import Interrupted, OutOfMemory, TrainingError
from luthier.system.hardware import free_memory, is_out_of_memory
from luthier.system.signals import StopRequest
from luthier.train.memory import held
from luthier.train.observers.base import Progress
from luthier.train.state import State, random_state, restore_random_state
from luthier.train.step import Job, Skipped, evaluated, run_step, settled


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
            TrainingError: too many steps in a row could not be made; the state was saved by the observers.
            OutOfMemory: even the smallest micro-batch does not fit, or memory ends between steps.
        """
        state = job.state
        for observer in job.observers:
            observer.on_start(state, job.total_steps)
        asked, trouble = False, None
        with StopRequest() as stop:
            steps = job.loader.steps(epoch=state.epoch, position=state.position)
            while state.step < job.total_steps and not asked and not trouble and not settled(job, state):
                try:
                    outcome = _made(job, state, _next(job, state, steps))  # what is not made is not prepared either
                except _Stuck as stuck:
                    trouble = stuck.error
                    continue
                state = outcome.state
                if isinstance(outcome, Skipped):
                    _notice(job, state, outcome.reason)
                    asked = job.trained.strategy.any(stop.requested)
                    if state.skipped_in_a_row >= job.settings.max_skipped_steps:
                        trouble, state = _too_many(job, state, outcome.reason), replace(state, skipped_in_a_row=0)
                    continue
                try:
                    outcome = _evaluated(job, outcome)
                except _Stuck as stuck:
                    trouble = stuck.error
                state = outcome.state
                wants = [observer.on_step(outcome) for observer in job.observers]
                asked = job.trained.strategy.any(stop.requested or any(wants))
        if state.step < job.total_steps and settled(job, state):
            _notice(job, state, f"training ends: no better {job.settings.best_metric} since step {state.better_step}")
            asked = False
        for observer in job.observers:
            observer.on_end(state)
        if trouble:
            raise trouble
        if asked and state.step < job.total_steps:
            raise Interrupted(
                f"stopped after step {state.step} of {job.total_steps}; {_saved(state)}. "
                "The same command, without --restart, continues from there."
            )
        return state


class _Stuck(Exception):
    """It cannot go on, with weights that are whole: they are saved before the error is raised."""

    def __init__(self, error: TrainingError) -> None:
        super().__init__()
        self.error = error


def _too_many(job: Job, state: State, reason: str) -> TrainingError:
    return TrainingError(
        f"{job.settings.max_skipped_steps} steps in a row could not be made; the weights are those of step "
        f"{state.step}, {_saved(state)}. The last: {reason}. A lower learning rate or fp32 usually helps"
    )


def _saved(state: State) -> str:
    return "a checkpoint was written" if state.step else "nothing was trained yet"


def _short(job: Job, state: State, doing: str, hint: str) -> Exception:
    """What to raise where memory ends between steps. Ranks cannot save together when one of them is stuck."""
    there = held(job.trained.model, job.trained.optimizer)
    said = f"out of memory {doing} after step {state.step} ({there}); "
    if job.trained.strategy.ranks > 1:
        return OutOfMemory(f"{said}the last checkpoint is intact. {hint}")
    return _Stuck(OutOfMemory(f"{said}{_saved(state)}. {hint}"))


def _next(job: Job, state: State, steps: Iterator[Step]) -> Step:
    """The next step, for which online objectives draw answers."""
    try:
        return next(steps)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        hint = "A smaller train.batch_size, objective.samples or objective.max_new_tokens helps"
        raise _short(job, state, "while the next step was prepared", hint) from error


def _evaluated(job: Job, progress: Progress) -> Progress:
    """The step with its evaluation."""
    try:
        return evaluated(job, progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        hint = "A smaller data.max_length or train.micro_batch_tokens helps"
        raise _short(job, progress.state, "while held-out rows were measured", hint) from error


def _made(job: Job, state: State, step: Step) -> Progress | Skipped:
    """A step, with smaller micro-batches from there on where memory does not suffice; its rows stay the same."""
    device = job.trained.strategy.device
    while True:
        drawn = random_state(device)
        try:
            return run_step(job, state, step)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # behind the block: the error held on to the tensors of the step
        job.trained.optimizer.zero_grad(set_to_none=True)
        free_memory(device)
        restore_random_state(drawn, device)
        step = _smaller(job, state, step)


def _smaller(job: Job, state: State, step: Step) -> Step:
    """The same rows in smaller micro-batches; raises OutOfMemory where there are none."""
    before = max(batch.ids.numel() for batch in step.micro_batches)
    smaller = job.loader.smaller(step) if job.trained.strategy.ranks == 1 else None
    said = (
        f"out of memory in the forward and backward pass of {before} tokens "
        f"({held(job.trained.model, job.trained.optimizer)})"
    )
    if smaller is None:
        rows = ", ".join(str(example.origin) for example in step.examples[:8])
        hint = (
            "train.gradient_checkpointing=true, a smaller data.max_length, train.micro_batch_tokens or adapter: qlora"
        )
        if job.trained.strategy.ranks > 1:
            raise OutOfMemory(
                f"{said}; the ranks cannot go on without each other. The last checkpoint is intact. {hint} help"
            )
        raise _Stuck(OutOfMemory(f"{said}; {_saved(state)}. The rows of the step: {rows}. {hint} help"))
    after = max(batch.ids.numel() for batch in smaller.micro_batches)
    _notice(job, state, f"{said}; going on with at most {after}, the rows of a step stay the same")
    return smaller


def _notice(job: Job, state: State, text: str) -> None:
    for observer in job.observers:
        observer.on_notice(state, text)
