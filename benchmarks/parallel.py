"""Is the loss the same everywhere? `python -m benchmarks.parallel [--ranks 2,4] [--only fsdp] [--steps 20]`.

Small random models of the shapes of Llama and Qwen3 are trained on real rows of unequal lengths by one process, and by
several under every strategy: full tuning and LoRA, SFT and DPO, packed and padded. The command fails where a loss or
gradient norm is off by more than 1e-5 (relative), or a final weight by more than 1e-4. What a strategy refuses is said.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, alpaca_rows, machine, print_table

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"type": "ddp"},
    "fsdp": {"type": "fsdp"},
    "tensor": {"type": "tensor"},
    "tensor x data": {"type": "tensor", "tensor": 2},
    "pipeline": {"type": "pipeline"},
    "pipeline, interleaved": {"type": "pipeline", "schedule": "interleaved"},
    "pipeline, zero-bubble": {"type": "pipeline", "schedule": "zero-bubble"},
    "pipeline, zbv": {"type": "pipeline", "schedule": "zbv"},
    "pipeline x data": {"type": "pipeline", "pipeline": 2},
    "sequence": {"type": "sequence"},
    "sequence x shard": {"type": "sequence", "sequence": 2, "shard": 2},
    "deepspeed 1": {"type": "deepspeed", "stage": 1},
    "deepspeed 2": {"type": "deepspeed", "stage": 2},
    "deepspeed 3": {"type": "deepspeed", "stage": 3},
    "fsdp, hybrid": {"type": "fsdp", "shard": 2},
}
MODELS, ADAPTERS, OBJECTIVES, LAYOUTS = ("llama", "qwen3"), ("full", "lora"), ("sft", "dpo"), ("packed", "padded")
LEAST = {"fsdp, hybrid": 4, "sequence x shard": 4, "tensor x data": 4, "pipeline x data": 4}
"""Processes without which a strategy is another one."""
LEAST_LOSS = 0.01
"""Below it distances are not held against the loss: that of policy gradients is often nothing."""
ROWS, BATCH, WORDS = 120, 6, 1000
MOST = {"loss": 1e-5, "gradient": 1e-5, "weights": 1e-4}
RATES = {"full": 1e-4, "lora": 1e-3}


def build(kind: str, folder: Path) -> None:
    """A random model, with a tokenizer that is the real one's but for fewer words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from luthier.config import ModelConfig
    from luthier.models.load import ModelLoader

    said = [row["output"] for row in json.loads(alpaca_rows().read_text(encoding="utf-8"))]
    tokenizer = ModelLoader().renderer(ModelConfig(path=MODEL)).tokenizer.train_new_from_iterator(said, WORDS)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": kind == "llama",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows(objective: str, file: Path) -> None:
    """Real instructions; a rejected answer is that of another row."""
    found = [row for row in json.loads(alpaca_rows().read_text(encoding="utf-8")) if 0 < len(row["output"]) < 400]
    found = found[:ROWS]
    if objective == "dpo":
        others = [*found[1:], found[0]]
        found = [
            {"prompt": row["instruction"], "chosen": row["output"], "rejected": other["output"]}
            for row, other in zip(found, others, strict=True)
        ]
    file.write_text(json.dumps(found), encoding="utf-8")


def write(case: Sequence[str], parallel: Mapping[str, Any], steps: int, home: Path, out: Path) -> str:
    """The config of a case."""
    model, adapter, objective, layout = case
    packed = layout == "packed"
    tree = {
        "model": str(home / model),
        "data": {
            "train": [str(home / f"{objective}.json")], "held_out": 0.1, "max_length": 160, "bad_rows": "drop",
            "over_length": "drop" if objective == "dpo" else "truncate", "packing": packed,
        },
        "adapter": adapter,
        "objective": objective,
        "train": {
            "learning_rate": RATES[adapter], "batch_size": BATCH, "max_steps": steps, "epochs": 9,
            "micro_batch_size": "auto" if packed else 2, "micro_batch_tokens": 256, "evaluate_every": "10 steps",
        },
        "parallel": dict(parallel),
        "output": {"dir": str(out), "final": "last"},
    }  # fmt: skip
    file = out.with_suffix(".json")
    file.write_text(json.dumps(tree), encoding="utf-8")
    return str(file)


def work(files: Sequence[str]) -> None:
    """Train all, as one of the processes, to the end or until a step: FILE@2. Why one is refused stands beside it."""
    from luthier.config import read_config
    from luthier.errors import Interrupted, UserError
    from luthier.factory import Factory
    from luthier.system.hardware import return_freed_memory
    from luthier.train.observers.base import Observer, Progress

    return_freed_memory()  # as the command does

    class Until(Observer):
        """Asks to stop."""

        def __init__(self, step: str) -> None:
            self.step = step

        def on_step(self, progress: Progress) -> bool:
            """At its step."""
            return str(progress.state.step) == self.step

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo")  # once for all, since the same address cannot be met at twice
    for entry in files:
        file, _, step = entry.partition("@")
        try:
            Factory().fine_tune(read_config(file), observers=[Until(step)])
        except Interrupted:
            pass
        except UserError as error:
            Path(file).with_suffix(".refused").write_text(str(error), encoding="utf-8")
        print(entry, file=sys.stderr, flush=True)


def together(ranks: int, files: Sequence[str]) -> None:
    """All trainings, by so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    size = {"WORLD_SIZE": str(ranks)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parallel", "--work", *files],
            env=os.environ | shared | ({**size, "RANK": str(n), "LOCAL_RANK": str(n)} if ranks > 1 else {}),
            stderr=None if n == 0 or os.environ.get("SHOW") else subprocess.DEVNULL,
        )
        for n in range(ranks)
    ]  # fmt: skip
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.kill()
    if any(codes):
        print(codes, file=sys.stderr)
        raise RuntimeError(f"a process of {ranks} failed")


def numbers(folder: Path) -> dict[str, list[float]]:
    """What was measured at each step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {key: [line[key] for line in lines if key in line] for key in ("loss", "held_out_loss", "grad_norm")}


def apart(one: Path, other: Path) -> dict[str, float]:
    """The largest relative distance of losses and gradient norms, and the largest one of weights."""
    from safetensors.torch import load_file

    here, there = numbers(one), numbers(other)
    far = {
        key: max((abs(b - a) / max(abs(a), LEAST_LOSS) for a, b in zip(here[key], there[key], strict=True)), default=0)
        for key in here
    }
    name = next(file.name for file in one.glob("*model*.safetensors"))
    first, second = load_file(one / name), load_file(other / name)
    assert first.keys() == second.keys()
    weights = max(float((first[name] - second[name]).abs().max()) for name in first)
    return {"loss": max(far["loss"], far["held_out_loss"]), "gradient": far["grad_norm"], "weights": weights}


def cases(ranks: Sequence[int], only: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Strategies and numbers of processes."""
    for name in STRATEGIES:
        if not only or any(name.startswith(start) for start in only):
            yield from ((name, count) for count in ranks if count >= LEAST.get(name, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--only", default="", help="beginnings of names of strategies")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--work", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    only = [start for start in given.only.split(",") if start]
    trained = list(product(MODELS, ADAPTERS, OBJECTIVES, LAYOUTS))
    table, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for kind in MODELS:
            build(kind, home / kind)
        for objective in OBJECTIVES:
            rows(objective, home / f"{objective}.json")
        name = "-".join
        together(1, [write(case, {"type": "auto"}, given.steps, home, home / name(case)) for case in trained])
        chosen = list(cases([int(count) for count in given.ranks.split(",")], only))
        for count in sorted({count for _, count in chosen}):
            runs = {(s, case): home / f"{s}-{count}-{name(case)}" for s, c in chosen if c == count for case in trained}
            together(count, [write(case, STRATEGIES[s], given.steps, home, out) for (s, case), out in runs.items()])
            for (strategy, case), out in runs.items():
                refused = out.with_suffix(".refused")
                if refused.exists():
                    table.append([strategy, count, *case, refused.read_text(encoding="utf-8"), "", ""])
                    continue
                far = apart(home / name(case), out)
                table.append([strategy, count, *case, *(f"{value:.1e}" for value in far.values())])
                failed += [table[-1]] if any(far[key] > MOST[key] for key in MOST) else []
    print(f"\n{machine()}; {given.steps} steps of {BATCH} rows\n")
    print_table(
        ["strategy", "ranks", "model", "adapter", "objective", "layout", "loss", "gradient norm", "weights"], table
    )
    if failed:
        raise SystemExit(f"{len(failed)} are further off than promised")


if __name__ == "__main__":
    main()
