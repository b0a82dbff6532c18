"""Kill real runs with SIGKILL again and again, and hold what they end with against an uninterrupted run.

python -m tests.faults.kill --times 20 [--kind lora|full|dpo|grpo|all] [--parallel fsdp] [--seed N]

Moments are drawn at random: while the process starts, at a step, within the writing of a checkpoint (its temporary
folder is watched for), and between the last step and the end. With `--parallel`, two processes train together, and
either of them is killed. `--keep FOLDER` is for the runs, which stay. Prints a line per kill, and exits with 1 on a
difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from luthier.system.files import PREFIX
from luthier.train.checkpoint import MANIFEST
from tests.faults.conftest import newest, ranks, start, tensors

Moment = Literal["start", "step", "saving", "end"]
EVERY = 3
"""Steps between checkpoints."""
PACE = 4
"""Steps that a life makes at most before it is killed, so that there are steps left for all kills."""
LINGER: dict[Moment, float] = {"start": 0.0, "step": 0.02, "saving": 0.03, "end": 0.3}
"""Seconds, at most, between a moment and the kill."""
UNEQUAL = ("seconds", "tokens_per_second", "peak_memory_bytes", "rollout_seconds")
"""Numbers that two equal runs do not share."""
KINDS: dict[str, dict[str, Any]] = {
    "lora": {
        "adapter": {"type": "lora", "rank": 4, "dropout": 0.1},
        "data": {"packing": True},
        "train": {"micro_batch_tokens": 150, "learning_rate": 1e-3, "evaluate_every": 5},
    },
    "full": {
        "adapter": "full",
        "data": {"packing": False},
        "train": {"micro_batch_size": 3, "learning_rate": 1e-4, "evaluate_every": 7},
    },
    "dpo": {
        "objective": "dpo",
        "adapter": {"type": "lora", "rank": 4, "dropout": 0.1},
        "train": {"micro_batch_tokens": 300, "learning_rate": 1e-3},
    },
    "grpo": {
        "objective": {
            "type": "grpo", "rewards": [{"type": "regex", "pattern": "[kqx]"}], "max_new_tokens": 6, "samples": 4,
            "updates": 3, "beta": 0.05,
        },
        "adapter": {"type": "lora", "rank": 4},
        "train": {"batch_size": 4, "learning_rate": 3e-3},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """One config, to be run in several folders."""

    config: Path
    steps: int
    parallel: str | None = None

    def start(self, folder: Path) -> subprocess.Popen[str]:
        together = ["--devices", 2, f"parallel={self.parallel}"] if self.parallel else []
        return start("train", self.config, f"output.dir={folder}", *together)

    def kill(self, process: subprocess.Popen[str], dice: random.Random) -> str:
        """Kill it, or one of its processes; says which."""
        if self.parallel is None:
            process.kill()
            return ""
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess, KeyError, IndexError):  # it has hardly begun, or is at its end
                rank = dice.randrange(2)
                ranks(process)[rank].kill()
                return f" of rank {rank}"
        return ""


def prepare(kind: str, folder: Path, *, times: int, parallel: str | None = None) -> Runs:
    """A tiny model, rows for the objective, and a config of enough steps for so many kills."""
    from tests.conftest import build_model, build_tokenizer, chat_rows
    from tests.objectives.conftest import pair_rows, prompt_rows

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = {"dpo": pair_rows, "grpo": prompt_rows}.get(kind, chat_rows)(24)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = PACE * times + 6
    own = KINDS[kind]
    tree = {
        "model": str(folder / "model"),
        "data": {"train": [str(folder / "rows.jsonl")], "held_out": 0.2, "max_length": 256} | own.get("data", {}),
        "train": {"max_steps": steps, "epochs": 1000, "batch_size": 8, "save_every": EVERY} | own["train"],
        "output": {"dir": str(folder / "unused"), "keep": 2},
    } | {key: own[key] for key in ("adapter", "objective") if key in own}
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    return Runs(folder / "config.json", steps, parallel)


# ---- killing -----------------------------------------------------------------------------------------------------


def done(folder: Path) -> int:
    """Steps that a run has written down."""
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith(b"}")), default=0)


def being_written(folder: Path) -> list[str]:
    """Checkpoints that are not whole yet."""
    return sorted(path.name for path in folder.glob(f"{PREFIX}checkpoint-*"))


def reached(folder: Path, moment: Moment, runs: Runs, dice: random.Random, whole_seconds: float) -> Callable[[], bool]:
    """Whether a process that was just started has come to a drawn moment."""
    begun, at = time.monotonic(), done(folder)
    goal = min(at + dice.randint(1, PACE - 1), runs.steps)
    if moment == "start":
        wait = dice.uniform(0.05, 0.8) * whole_seconds
        return lambda: time.monotonic() - begun > wait or done(folder) >= at + PACE
    if moment == "saving":
        return lambda: (done(folder) > at and bool(being_written(folder))) or done(folder) >= at + PACE + EVERY
    return lambda: done(folder) >= (runs.steps if moment == "end" else goal)


def kill(folder: Path, moment: Moment, runs: Runs, dice: random.Random, whole_seconds: float) -> str | None:
    """Start the command, kill it at a moment and say where that was; None if it came to its end before."""
    before = done(folder)
    process = runs.start(folder)
    at_moment = reached(folder, moment, runs, dice, whole_seconds)
    while not at_moment() and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(dice.uniform(0, LINGER[moment]))
    which = runs.kill(process, dice)
    out, err = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise AssertionError(f"the run ended by itself with {process.returncode}:\n{out}{err}")
    within = being_written(folder) if done(folder) > before else []  # not what an earlier kill has left
    return f"{which} at {moment}, {done(folder)} of {runs.steps} steps" + (
        f", within {', '.join(within)}" if within else ""
    )


def finish(runs: Runs, folder: Path) -> float:
    """The command to its end; returns its seconds."""
    started = time.monotonic()
    out, err = (process := runs.start(folder)).communicate()
    if process.returncode:
        raise AssertionError(f"the run ended with {process.returncode}:\n{out}{err}")
    return time.monotonic() - started


def moments(times: int, dice: random.Random) -> Iterator[Moment]:
    """All but the last anywhere, half of them within the writing of a checkpoint."""
    for _ in range(times - 1):
        yield dice.choice(("saving", "saving", "step", "start"))
    yield "end"


# ---- comparing ---------------------------------------------------------------------------------------------------


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics without those numbers that no two runs share."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in UNEQUAL} for line in lines]


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of the tensors at the top, of each step's rows, and of every file of the last checkpoint."""
    files = [folder / "rows.json", folder / "steps.jsonl", *newest(folder).iterdir()]
    plain = [path for path in files if path.is_file() and path.name != MANIFEST and path.suffix != ".safetensors"]
    return tensors(folder) | {str(path.relative_to(folder)): digest(path) for path in plain}


def digest(path: Path) -> str:
    """sha256 of a file; peft writes the names of layers in any order."""
    content = path.read_bytes()
    if path.name == "adapter_config.json":
        sortable = {key: sorted(v) if isinstance(v, list) else v for key, v in json.loads(content).items()}
        content = json.dumps(sortable, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def differences(whole: Path, parts: Path) -> list[str]:
    """What is not the same in two folders."""
    one, other = files_of(whole), files_of(parts)
    found = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    lines, again = steps_of(whole), steps_of(parts)
    apart = next((i for i, (a, b) in enumerate(zip(lines, again, strict=False)) if a != b), min(len(lines), len(again)))
    found += [f"metrics.jsonl from line {apart + 1} on"] if lines != again else []
    results = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (whole, parts)]
    found += [f"metrics.json: {k}" for k in results[0] if k not in UNEQUAL and results[0][k] != results[1].get(k)]
    return found + [f"left behind: {path.name}" for path in sorted(parts.glob(f"{PREFIX}*"))]


def torture(
    kind: str,
    folder: Path,
    *,
    times: int,
    seed: int,
    say: Callable[[str], None],
    plan: list[Moment] | None = None,
    parallel: str | None = None,
) -> list[str]:
    """Kill runs of a kind so many times; returns what is not as in an uninterrupted run."""
    dice = random.Random(f"{kind} {seed}")
    runs, whole, parts = prepare(kind, folder, times=times, parallel=parallel), folder / "whole", folder / "parts"
    seconds = finish(runs, whole)
    kills = 0
    for moment in plan or moments(times, dice):
        where = kill(parts, moment, runs, dice, seconds)
        if where is None:
            say(f"{kind}: was at its end before it could be killed {moment}")
            break
        kills += 1
        say(f"{kind}: kill {kills}{where}")
    else:
        finish(runs, parts)
    found = differences(whole, parts)
    verdict = "DIFFERS in " + "; ".join(found) if found else "the same bytes as the uninterrupted run"
    compared = f"{len(files_of(whole))} files and {len(steps_of(whole))} lines of metrics"
    say(f"{kind}: {kills} kills in {runs.steps} steps; {compared}: {verdict}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="kills per kind")
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--parallel", help="how two processes train together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which stay")
    given = parser.parse_args(arguments)
    home = given.keep or Path(tempfile.mkdtemp(prefix="luthier-kill-"))
    chosen = list(KINDS) if given.kind == "all" else [given.kind]
    different = [
        kind
        for kind in chosen
        if torture(
            kind,
            home / kind,
            times=given.times,
            seed=given.seed,
            say=lambda line: print(line, flush=True),
            parallel=given.parallel,
        )
    ]
    if given.keep is None and not different:
        shutil.rmtree(home)
    print(f"verdict: {'different: ' + ', '.join(different) if different else 'nothing was lost'}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
