"""Ways in which a run could be lost or changed without a word: memory that ends between steps, data that changed behind
the ids, a best checkpoint that is gone, bad rows right behind a checkpoint, two processes in one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.errors import Interrupted, OutOfMemory, OutputError, TrainingError
from luthier.evaluate.evaluator import Evaluator
from luthier.factory import Factory
from luthier.tracking.run import RunFolder
from luthier.train.state import State
from tests.conftest import chat_rows
from tests.faults.test_steps import NAN, bad_steps, too_large
from tests.invariance.conftest import metrics, weights
from tests.invariance.test_resume import Listen, StopAt, flip
from tests.objectives.conftest import labelled_rows, pair_rows

Make = Callable[..., Any]


def state_of(folder: Path) -> State:
    return State(**json.loads((folder / "state.json").read_text(encoding="utf-8")))


# ---- memory that ends where nothing is trained -------------------------------------------------------------------


def forgetful(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> list[int]:
    """An evaluator for which memory does not suffice at some of its calls; returns the limits it was called with."""
    real, limits = Evaluator.loss, list[int]()

    def loss(self: Evaluator, model: Any, forward: Any, objective: Any, rows: Any, layout: Any, **more: Any) -> Any:
        limits.append(layout.tokens)
        if fails(len(limits)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, forward, objective, rows, layout, **more)

    monkeypatch.setattr(Evaluator, "loss", loss)
    return limits


def test_an_evaluation_that_does_not_fit_is_cut_smaller(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before it is not made twice."""
    common = {"train__max_steps": 4, "train__evaluate_every": "1 steps", "train__micro_batch_tokens": 1000}
    luthier.Factory().fine_tune(run_config(output=str(tmp_path / "plain"), **common))
    limits = forgetful(monkeypatch, lambda call: call == 2)
    luthier.Factory().fine_tune(run_config(output=str(tmp_path / "short"), **common))
    assert limits[2] < limits[1] == 1000 and len(limits) == 6
    assert metrics(tmp_path / "short") == pytest.approx(metrics(tmp_path / "plain"), rel=1e-4)
    held = [metrics(tmp_path / name, "held_out_loss") for name in ("short", "plain")]
    assert held[0] == pytest.approx(held[1], rel=1e-5)


def test_an_evaluation_that_never_fits(run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is kept, and the run goes on behind it once there is memory."""
    config = run_config(train__max_steps=4, train__evaluate_every="2 steps", train__save_every=None)
    with monkeypatch.context() as patch:
        forgetful(patch, lambda call: True)
        with pytest.raises(
            OutOfMemory, match=r"while held-out rows were measured after step 2 .* checkpoint was written"
        ):
            luthier.Factory().fine_tune(config)
    assert state_of(tmp_path / "run" / "checkpoint-2").step == 2
    watch = Listen()
    luthier.Factory().fine_tune(config, stages=watch)
    assert metrics(tmp_path / "run", "tokens")[-1] and len(metrics(tmp_path / "run")) == 4 and watch.said == []


def test_a_row_that_never_fits_is_named_and_nothing_is_lost(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = chat_rows(20)
    rows[7]["messages"][1]["content"] += " And so on." * 9
    config = run_config(rows, train__batch_size=1, train__max_steps=16, train__save_every=None, data__held_out=0.0)
    longest = max(Factory().prepare(config).data.train, key=lambda row: row.tokens)
    too_large(monkeypatch, longest.tokens - 1)
    with pytest.raises(
        OutOfMemory, match=f"a checkpoint was written. The rows of the step: {longest.origin}"
    ) as caught:
        luthier.Factory().fine_tune(config)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert state_of(checkpoint).step == len(metrics(tmp_path / "run")) > 0
    assert "gradient_checkpointing" in str(caught.value)


def test_memory_that_ends_while_answers_are_drawn(
    online: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.rollout.source import Rollouts

    real, calls = Rollouts.draw, list[int]()

    def draw(self: Rollouts, *given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *given, **more)

    config = online("grpo", train__max_steps=4, train__save_every=None, data__held_out=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Rollouts, "draw", draw)
        said = r"while the next step was prepared after step 2 .* objective\.max_new_tokens"
        with pytest.raises(OutOfMemory, match=said):
            luthier.Factory().fine_tune(config)
    assert state_of(tmp_path / "run" / "checkpoint-2").step == 2
    luthier.Factory().fine_tune(config)
    assert len(metrics(tmp_path / "run")) == 4


# ---- what a run is made from ---------------------------------------------------------------------------------------


def margins(count: int, margin: float) -> list[dict[str, Any]]:
    return [{**row, "margin": margin} for row in pair_rows(count)]


def labels(count: int, flipped: bool) -> list[dict[str, Any]]:
    return [{**row, "label": row["label"] != flipped} for row in labelled_rows(count)]


@pytest.mark.parametrize("kind", ["margin", "label", "answer", "reward file"])
def test_data_that_changed_behind_the_ids(run_config: Make, online: Make, tmp_path: Path, kind: str) -> None:
    """No id is another, and what is learnt is."""
    code = tmp_path / "judge.py"

    def config(*, changed: bool) -> Any:
        common = {"train__max_steps": 4, "data__held_out": 0.0}
        if kind == "margin":
            return run_config(margins(16, 5.0 if changed else 0.0), objective="reward", **common)
        if kind == "label":
            return run_config(labels(16, changed), objective="kto", **common)
        asked = [{"prompt": f"What is {i}?", "answer": "999" if changed else str(i)} for i in range(12)]
        if kind == "answer":
            return online("grpo", asked, {"rewards": ["exact_match"]}, **common)
        code.write_text(f"def reward(prompt, completion, answer, row):\n    return {2.0 if changed else 1.0}\n")
        return online("grpo", None, {"rewards": [{"type": "python", "path": str(code)}]}, **common)

    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(config(changed=False), observers=[StopAt(2)])
    with pytest.raises(OutputError, match="the data: other rows, order or rendering than before"):
        luthier.Factory().fine_tune(config(changed=True))
    luthier.Factory().fine_tune(config(changed=False))


@pytest.mark.parametrize("kind", ["teacher", "reward model", "reward file"])
def test_what_an_objective_needs_is_never_removed(run_config: Make, online: Make, tmp_path: Path, kind: str) -> None:
    """Beginning anew in its folder would remove it."""
    luthier.Factory().fine_tune(run_config())
    folder = tmp_path / "run"
    if kind == "teacher":
        config = run_config(objective={"type": "distill", "teacher": str(folder)})
    else:
        (folder / "judge.py").write_text("def reward(**_):\n    return 1.0\n")
        judge = {"type": "python", "path": str(folder / "judge.py")}
        config = online(
            "grpo", None, {"rewards": [{"type": "model", "path": str(folder)} if "model" in kind else judge]}
        )
    before = sorted(folder.rglob("*"))
    with pytest.raises(OutputError, match="which this run needs; choose another folder"):
        luthier.Factory().fine_tune(config, restart=True)
    assert sorted(folder.rglob("*")) == before


def test_a_folder_with_the_name_of_its_objective(
    run_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Is nothing that the objective needs."""
    monkeypatch.chdir(tmp_path)
    config = run_config(pair_rows(16), objective="dpo", output="dpo")
    with pytest.raises(Interrupted):
        luthier.Factory().fine_tune(config, observers=[StopAt(2)])
    luthier.Factory().fine_tune(config)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def worse_and_worse(monkeypatch: pytest.MonkeyPatch, first: float = 1.0) -> None:
    """Each evaluation is worse than the one before, so that the first is the best."""
    said = [first]

    def loss(self: Evaluator, *_: Any, **__: Any) -> dict[str, float]:
        said.append(said[-1] + 1)
        return {"loss": said[-1]}

    monkeypatch.setattr(Evaluator, "loss", loss)


def test_a_best_checkpoint_that_is_damaged_is_not_kept(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes never become the tuned model; the last weights do, which is said."""
    worse_and_worse(monkeypatch)
    config = run_config(train__max_steps=4, train__evaluate_every="1 steps", train__save_every=None)

    class Damage(StopAt):
        def on_step(self, progress: Any) -> bool:
            if progress.last:
                flip(tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors")
            return False

    watch = Listen()
    _, found = luthier.Factory().fine_tune(config, observers=[Damage(0)], stages=watch)
    assert found["final_step"] == 4
    (said,) = watch.said
    assert "checkpoint-1, the best, is damaged (adapter_model.safetensors is not as it was written)" in said
    last = weights(tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(last[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_a_best_checkpoint_that_is_gone_does_not_stand_in_the_way(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was found damaged, another can be the best."""
    common = {"train__max_steps": 6, "train__evaluate_every": "1 steps", "output__keep": 9}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        worse_and_worse(patch)
        luthier.Factory().fine_tune(run_config(**common), observers=[StopAt(3)])
    flip(tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors")
    worse_and_worse(monkeypatch, first=100.0)
    watch = Listen()
    _, found = luthier.Factory().fine_tune(run_config(**common), stages=watch)
    assert "checkpoint-1 is damaged" in watch.said[0] and "was removed" in watch.said[0]
    assert found["final_step"] == 4  # the first after it went on


def test_bad_rows_right_behind_a_checkpoint_do_not_hold_a_run_for_ever(
    run_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place behind them is saved with the same weights."""
    common = {"train__max_steps": 8, "train__epochs": 20, "train__max_skipped_steps": 3, "train__save_every": 1}
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="3 steps in a row"):
        bad_steps(patch, {3, 4, 5}, NAN)
        luthier.Factory().fine_tune(run_config(**common))
    state = state_of(tmp_path / "run" / "checkpoint-2")
    assert (state.step, state.skipped, state.skipped_in_a_row) == (2, 3, 0)
    luthier.Factory().fine_tune(run_config(**common))
    assert len(metrics(tmp_path / "run")) == 8


# ---- two processes in one folder -------------------------------------------------------------------------------------

HOLD = """
import sys, time
from luthier.tracking.run import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_second_process_is_refused(run_config: Make, tmp_path: Path) -> None:
    """As long as the first lives, however it ends."""
    config = run_config()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        for restart in (False, True):
            with pytest.raises(OutputError, match=r"another process trains into .*run just now"):
                luthier.Factory().fine_tune(config, restart=restart)
        other.kill()
    luthier.Factory().fine_tune(config)
    with RunFolder(tmp_path / "run").lock():
        pass
    luthier.Factory().fine_tune(config, restart=True)


def test_what_the_other_has_finished_is_not_trained_again(run_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came to its end while this one read its data."""
    config = run_config()
    real = RunFolder.lock

    def lock(self: RunFolder) -> Any:
        monkeypatch.setattr(RunFolder, "lock", real)
        luthier.Factory().fine_tune(config)
        return real(self)

    monkeypatch.setattr(RunFolder, "lock", lock)
    with pytest.raises(OutputError, match="holds a finished run"):
        luthier.Factory().fine_tune(config)
