"""Several processes, one of which is lost, hangs, or was given something else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from luthier.train.checkpoint import verify
from tests.conftest import chat_rows
from tests.faults.conftest import command, newest, ranks, start, tensors, wait_for_step

pytestmark = pytest.mark.slow
KINDS = ["ddp", "fsdp", "pipeline"]


def gone(children: list[psutil.Process]) -> bool:
    """Whether none of them is left."""
    return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.mark.parametrize(("kind", "lost"), [("ddp", 0), ("fsdp", 1), ("pipeline", 0)])
def test_a_lost_process_ends_all_and_the_run_goes_on(config: Path, tmp_path: Path, kind: str, lost: int) -> None:
    """By itself where that was asked for, and bit for bit as if nothing had happened."""
    common = (f"parallel={kind}", "train.max_steps=12", "--devices", 2)
    whole = start("train", config, f"output.dir={tmp_path / 'whole'}", *common)
    said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    process = start("train", config, f"output.dir={tmp_path / 'parts'}", *common, "--max-restarts", 1)
    wait_for_step(tmp_path / "parts", 5, process)
    children = ranks(process)
    children[lost].kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert f"rank {lost} was ended by SIGKILL" in err and "starting again (1 of 1)" in err
    assert "continuing from" in out and gone(children)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")


def test_a_lost_process_is_one_message(config: Path, tmp_path: Path) -> None:
    process = start("train", config, "parallel=fsdp", "--devices", 2)
    wait_for_step(tmp_path / "run", 5, process)
    children = ranks(process)
    children[1].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert err.strip() == "rank 1 was ended by SIGKILL" and gone(children)


@pytest.mark.parametrize("short", [0, 1])
def test_a_process_without_memory_ends_all_with_one_message(run_config: Any, tmp_path: Path, short: int) -> None:
    """The system gives one of them no more: those that go on without it would wait for ever."""
    large = {"batch_size": 200, "micro_batch_tokens": 50_000, "max_steps": 1000, "epochs": 1000, "save_every": 1}
    config = run_config(chat_rows(250), **{f"train__{key}": value for key, value in large.items()})
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    process = start("train", tmp_path / "config.yaml", "parallel=ddp", "--devices", 2)
    wait_for_step(tmp_path / "run", 2, process)
    children = ranks(process)
    children[short].rlimit(psutil.RLIMIT_AS, (children[short].memory_info().vms - 1,) * 2)
    _, err = process.communicate(timeout=60)
    where = f" on rank {short}" if short else ""
    assert process.returncode == 1 and gone(children)
    assert err.startswith(f"error{where}: out of memory in the forward and backward pass of"), err
    assert err.count("\n") == 1 and "the ranks cannot go on without each other. The last checkpoint is intact" in err
    assert verify(newest(tmp_path / "run")) is None


@pytest.mark.parametrize("late", [0, 1])
def test_a_process_that_hangs_is_named(config: Path, tmp_path: Path, late: int) -> None:
    parallel = "parallel={type: ddp, timeout_seconds: 6}"
    process = start("train", config, parallel, "--devices", 2)
    wait_for_step(tmp_path / "run", 5, process)
    children = ranks(process)
    children[late].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert time.monotonic() - started < 60 and process.returncode == 1
    assert f"rank {late} hangs" in err and "(parallel.timeout_seconds)" in err and "Traceback" not in err, err
    assert gone(children)


def test_a_process_with_another_config_is_refused(config: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank, rate in enumerate(("1e-3", "2e-3")):
        world = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, **world, "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        line = command("train", config, f"train.learning_rate={rate}")
        started.append(subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=90)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2]
    assert said[0] == "error: config: rank 1 was given another train than rank 0; start all with one config\n"
    assert said[1] == "" and not (tmp_path / "run").exists()


def test_two_machines_meet(config: Path, tmp_path: Path) -> None:
    """The same command on both, by torchrun's rendezvous."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    common = (f"output.dir={tmp_path / 'two'}", "train.max_steps=4", "--nodes", 2, "--rendezvous", place)
    machines = [start("train", config, *common) for _ in range(2)]
    said = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    lines = (tmp_path / "two" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and (tmp_path / "two" / "adapter_model.safetensors").exists()
