"""Steps that must not be made, and memory that does not suffice: nothing is lost, and what happened is said."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.data.loader import Loader
from luthier.errors import OutOfMemory, TrainingError
from luthier.models.output import Forward
from luthier.train.observers.base import Observer
from luthier.train.state import State
from tests.conftest import chat_rows
from tests.invariance.conftest import metrics, weights

Make = Callable[..., Any]
DROPOUT = {"adapter": {"type": "lora", "dropout": 0.1}}


class Notices(Observer):
    """Keeps what is said between steps."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_notice(self, state: State, text: str) -> None:
        self.said.append(text)


def bad_steps(monkeypatch: pytest.MonkeyPatch, numbers: set[int], factor: float) -> list[list[str]]:
    """Multiply the loss of some steps, counted as they are made; returns the rows of those steps."""
    from luthier.train import step as module

    real, count, rows = module.run_step, [0], []

    def run(job: Any, state: Any, step: Any) -> Any:
        count[0] += 1
        if count[0] not in numbers:
            return real(job, state, step)
        rows.append([str(example.origin) for example in step.examples])
        loss = type(job.objective).loss
        with monkeypatch.context() as patch:
            patch.setattr(type(job.objective), "loss", lambda *given: (loss(*given)[0] * factor, loss(*given)[1]))
            return real(job, state, step)

    monkeypatch.setattr("luthier.train.loop.run_step", run)
    return rows


NAN, INFINITE, HUGE = float("nan"), float("inf"), 1e9


def without(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """A loader that leaves out some of its steps."""
    real = Loader.steps

    def steps(loader: Loader, **place: int) -> Any:
        return (step for number, step in enumerate(real(loader, **place), 1) if number not in numbers)

    monkeypatch.setattr(Loader, "steps", steps)


@pytest.mark.parametrize(("factor", "step"), [(NAN, 2), (INFINITE, 3), (HUGE, 12)], ids=["nan", "inf", "exploding"])
def test_a_skipped_step_leaves_nothing_behind(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, step: int
) -> None:
    """Weights and numbers are those of a run without its rows, dropout included; the rows are named."""
    common = DROPOUT | {"train__max_steps": 14, "train__epochs": 20}
    watch = Notices()
    with monkeypatch.context() as patch:
        rows = bad_steps(patch, {step}, factor)
        luthier.Factory().fine_tune(run_config(output=str(tmp_path / "bad"), **common), observers=[watch])
    with monkeypatch.context() as patch:
        without(patch, {step})
        luthier.Factory().fine_tune(run_config(output=str(tmp_path / "good"), **common))
    bad, good = tmp_path / "bad", tmp_path / "good"
    assert metrics(bad) == metrics(good) and len(metrics(bad)) == 14
    assert all(torch.equal(weights(bad)[name], tensor) for name, tensor in weights(good).items())
    (said,) = watch.said
    assert said.startswith(f"step {step} was skipped: ") and all(row in said for row in rows[0])
    lines = [json.loads(line) for line in (bad / "metrics.jsonl").read_text().splitlines()]
    assert [line["note"] for line in lines if "note" in line] == [said]
    assert metrics(bad, "skipped")[-1] == 1


def test_no_step_explodes_before_it_is_known_what_is_usual(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Notices()
    bad_steps(monkeypatch, {2}, HUGE)
    luthier.Factory().fine_tune(run_config(), observers=[watch])
    assert watch.said == []


def test_null_never_skips_large_gradients(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Notices()
    bad_steps(monkeypatch, {12}, HUGE)
    config = run_config(train__max_steps=14, train__epochs=20, train__spike_factor=None)
    luthier.Factory().fine_tune(config, observers=[watch])
    assert watch.said == []


def test_after_some_in_a_row_the_run_stops_at_the_last_good_state(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved; and the same command goes on behind the bad rows."""
    common = DROPOUT | {"train__max_steps": 8, "train__epochs": 20, "train__max_skipped_steps": 3}
    config = run_config(output=str(tmp_path / "bad"), **common)
    with monkeypatch.context() as patch:
        bad_steps(patch, {3, 4, 5}, NAN)
        with pytest.raises(TrainingError, match="3 steps in a row could not be made; the weights are those of step 2"):
            luthier.Factory().fine_tune(config)
    assert (tmp_path / "bad" / "checkpoint-2" / "manifest.json").exists()
    luthier.Factory().fine_tune(config)
    with monkeypatch.context() as patch:
        without(patch, {3, 4, 5})
        luthier.Factory().fine_tune(run_config(output=str(tmp_path / "good"), **common))
    assert metrics(tmp_path / "bad") == metrics(tmp_path / "good")


def test_weights_that_are_no_numbers_are_never_saved(run_config: Make, tmp_path: Path) -> None:
    """An optimizer step of infinite size follows from finite gradients; no evaluation and no save may keep it."""
    config = run_config(
        train__learning_rate=1e39, train__warmup_steps=0, train__schedule="constant", train__save_every=1
    )
    with pytest.raises(
        TrainingError, match=r"after step 1 .* weights are not finite .* the last good checkpoint is none"
    ):
        luthier.Factory().fine_tune(config)
    assert not list(tmp_path.glob("run/checkpoint-*")) and not (tmp_path / "run" / "adapter_model.safetensors").exists()


# ---- memory ------------------------------------------------------------------------------------------------------


def too_large(monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[int]:
    """Let forward passes of more tokens fail while training, as an allocator would; returns the sizes that passed."""
    real, passed = Forward.__call__, list[int]()

    def call(self: Forward, model: Any, batch: Any) -> Any:
        if model.training and batch.ids.numel() > tokens:
            torch.rand(3)  # what was drawn before counts for nothing
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if model.training:
            passed.append(batch.ids.numel())
        return real(self, model, batch)

    monkeypatch.setattr(Forward, "__call__", call)
    return passed


@pytest.mark.parametrize("kind", ["sft", "kto", "grpo"])
@pytest.mark.parametrize("packing", [True, False])
def test_out_of_memory_halves_the_micro_batch(
    run_config: Make, online: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, packing: bool
) -> None:
    """And the run comes to what it would have come to: the same rows in each step, the same dropout of none."""
    from tests.objectives.conftest import labelled_rows

    def config(name: str) -> Any:
        common = {"output": str(tmp_path / name), "data__packing": packing, "train__max_steps": 3}
        if kind == "grpo":
            return online("grpo", **common, train__micro_batch_tokens=1000)
        rows = labelled_rows(20) if kind == "kto" else chat_rows(20)
        return run_config(rows, objective=kind, **common, train__micro_batch_tokens=1000)

    luthier.Factory().fine_tune(config("plain"))
    watch = Notices()
    passed = too_large(monkeypatch, 200)
    luthier.Factory().fine_tune(config("short"), observers=[watch])
    assert watch.said and max(passed) <= 200
    assert "out of memory in the forward and backward pass of" in watch.said[0]
    assert "weights 0.00 GB, gradients 0.00 GB, optimizer 0.00 GB" in watch.said[0]
    assert "the rows of a step stay the same" in watch.said[0]
    assert metrics(tmp_path / "short") == pytest.approx(metrics(tmp_path / "plain"), rel=1e-4, abs=1e-6)


def test_a_single_row_that_does_not_fit_says_what_would_help(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    too_large(monkeypatch, 20)
    with pytest.raises(OutOfMemory, match=r"gradient_checkpointing=true, a smaller data\.max_length"):
        luthier.Factory().fine_tune(run_config())


def test_out_of_memory_in_the_optimizer_is_not_tried_again(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("luthier.distributed.single.update", fail)
    with pytest.raises(OutOfMemory, match=r"in the optimizer's step 1 .*adamw-8bit"):
        luthier.Factory().fine_tune(run_config())


def test_other_errors_are_not_taken_for_memory(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr("luthier.distributed.single.update", fail)
    with pytest.raises(RuntimeError, match="size mismatch"):
        luthier.Factory().fine_tune(run_config())


LIMITED = """
import resource, sys
import luthier
from luthier.config import read_config
from luthier.train.observers.base import Observer

class Limit(Observer):
    def on_start(self, state, total_steps):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
    def on_notice(self, state, text):
        print(text, flush=True)
    def on_step(self, progress):
        if progress.last:  # what is measured and drawn at the end is not what is short of memory
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        return False

luthier.Factory().fine_tune(read_config(sys.argv[1]), observers=[Limit()])
"""


@pytest.mark.slow
def test_memory_that_is_really_short(run_config: Make, tmp_path: Path) -> None:
    """The process may take 250 MB more than it has when training starts: the allocator itself says no."""
    rows = chat_rows(1000)
    config = run_config(
        rows, train__batch_size=800, train__micro_batch_tokens=100_000, train__max_steps=2, train__learning_rate=1e-3
    )
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "c.yaml"), str(250 * 2**20)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(luthier.__file__).parents[1]), "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of memory in the forward and backward pass of" in done.stdout
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
