"""THE loop. Every objective, adapter and strategy runs through it; there is no second one."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from luthier.data.loader import Step
from luthier.errors import Interrupted, OutOfMemory, TrainingError
from luthier.system.hardware import free_memory, is_out_of_memory
from luthier.system.signals import StopRequest
from luthier.train.memory import held
from luthier.train.observers.base import Progress
from luthier.train.state import State, random_state, restore_random_state
from luthier.train.step import Job, Skipped, run_step


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
            OutOfMemory: even the smallest micro-batch does not fit.
        """
        state = job.state
        for observer in job.observers:
            observer.on_start(state, job.total_steps)
        asked, trouble = False, ""
        with StopRequest() as stop:
            steps = job.loader.steps(epoch=state.epoch, position=state.position)
            while state.step < job.total_steps and not asked and not trouble:
                outcome = _made(job, state, next(steps))  # a step that is not made is not prepared either
                state = outcome.state
                if isinstance(outcome, Skipped):
                    _notice(job, state, outcome.reason)
                    trouble = outcome.reason if state.skipped_in_a_row >= job.settings.max_skipped_steps else ""
                    asked = job.trained.strategy.any(stop.requested)
                    continue
                wants = [observer.on_step(outcome) for observer in job.observers]
                asked = job.trained.strategy.any(stop.requested or any(wants))
        state = replace(state, skipped_in_a_row=0) if trouble else state
        for observer in job.observers:
            observer.on_end(state)
        if trouble:
            raise TrainingError(
                f"{job.settings.max_skipped_steps} steps in a row could not be made; the weights are those of step "
                f"{state.step}, and saved. The last: {trouble}. A lower learning rate or fp32 usually helps"
            )
        if asked and state.step < job.total_steps:
            raise Interrupted(
                f"stopped after step {state.step} of {job.total_steps}; a checkpoint was written. "
                "The same command, without --restart, continues from there."
            )
        return state


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
        several = "; the ranks cannot go on without each other" if job.trained.strategy.ranks > 1 else ""
        raise OutOfMemory(
            f"{said}{several}. The last checkpoint is intact. train.gradient_checkpointing=true, a smaller "
            "data.max_length, train.micro_batch_tokens or adapter: qlora help"
        )
    after = max(batch.ids.numel() for batch in smaller.micro_batches)
    _notice(job, state, f"{said}; going on with at most {after}, the rows of a step stay the same")
    return smaller


def _notice(job: Job, state: State, text: str) -> None:
    for observer in job.observers:
        observer.on_notice(state, text)
