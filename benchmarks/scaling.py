"""What do more processes give? `python -m benchmarks.scaling [--ranks 2,4] [--only fsdp] [--steps 4] [--paper]`.

A random Llama of 42 million weights is tuned in full on the same rows by one process and by several under each
strategy: tokens by CPU-second against one process, the share of the time in which processes wait for each other, and
the memory of the fullest process beside what `luthier plan` says of it. Memory is what the same run of a tiny model
does not take. The command fails where the prediction is off by more than 10 %.

With `--paper`, only what the planner says of models of 8 and 70 billion weights on 8 to 1,024 H100s.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, alpaca_rows, machine, print_table, write_rows
from benchmarks.parallel import together

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"type": "ddp"},
    "fsdp": {"type": "fsdp"},
    "tensor": {"type": "tensor"},
    "pipeline": {"type": "pipeline"},
    "sequence": {"type": "sequence"},
    "deepspeed 1": {"type": "deepspeed", "stage": 1},
    "deepspeed 3": {"type": "deepspeed", "stage": 3},
}
AXES = {"ddp": "data", "fsdp": "shard", "tensor": "tensor", "pipeline": "pipeline", "sequence": "sequence"}
"""Which axis of the planner is theirs; it has none for ZeRO."""
LENGTH, ROWS, TOGETHER = 256, 8, 2
"""Tokens of a row, rows of a step, and of a micro-batch."""
WIDE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "vocab_size": 8000}
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 8000}
MOST = 0.10
LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}
PAPER = {
    "8 billion": LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32
    },
    "70 billion": LLAMA | {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64
    },
}  # fmt: skip
"""The shapes of Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783, table 3)."""
DEVICES, LONG = (8, 64, 256, 1024), 8192


@dataclass(frozen=True)
class Measured:
    """Of one run: seconds of a step, CPU seconds of all processes in it, and bytes of the fullest process."""

    seconds: float
    cpu: float
    memory: int


def build(folder: Path, sizes: Mapping[str, int]) -> None:
    """A random model with a tokenizer that has as many words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.config import ModelConfig
    from luthier.models.load import ModelLoader

    said = [row["output"] for row in json.loads(alpaca_rows().read_text(encoding="utf-8"))]
    tokenizer = ModelLoader().renderer(ModelConfig(path=MODEL)).tokenizer.train_new_from_iterator(said, 4000)
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": False, "eos_token_id": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def config(model: Path, rows: str, parallel: Mapping[str, Any], steps: int, out: str = "") -> dict[str, Any]:
    """Rows of one length, so that every micro-batch is as large as any."""
    return {
        "model": str(model),
        "data": {"train": [rows], "held_out": 0, "max_length": LENGTH, "over_length": "truncate", "cache": False},
        "adapter": "full",
        "train": {
            "batch_size": ROWS, "micro_batch_tokens": TOGETHER * LENGTH, "max_steps": steps, "epochs": 99,
            "evaluate_every": None, "save_every": None, "precision": "fp32",
        },
        "parallel": dict(parallel),
        "output": {"dir": out or "runs/none", "final": "last", "per_process": True},
    }  # fmt: skip


def measured(home: Path, model: str, rows: str, parallel: Mapping[str, Any], *, ranks: int, steps: int) -> Measured:
    """Of a run in processes of its own."""
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        tree = config(home / model, rows, parallel, steps, f"{scratch}/run")
        file = Path(scratch) / "config.json"
        file.write_text(json.dumps(tree), encoding="utf-8")
        together(ranks, [str(file)])
        lines = (Path(scratch) / "run" / "processes.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
    usual = found[1:]  # the first step makes what later ones have
    return Measured(
        seconds=sum(max(line["seconds"]) for line in usual) / len(usual),
        cpu=sum(sum(line["cpu_seconds"]) for line in usual) / len(usual),
        memory=max(found[-1]["peak_memory_bytes"]),
    )


def predicted(model: Path, axis: str, ranks: int) -> int:
    """Bytes of the fullest process, as `luthier plan` has them."""
    from luthier.config import parse_config
    from luthier.distributed.mesh import Axes
    from luthier.planner.choose import device
    from luthier.planner.costs import Work, estimate
    from luthier.planner.shape import Shape

    shape = Shape(parse_config(config(model, "rows", {"type": "auto"}, 1)), "fp32")
    made = estimate(shape, Axes(**{axis: ranks}), Work(ROWS, LENGTH, TOGETHER), device("h100", "fp32"))
    return made.bytes - made.memory.other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--only", default="", help="names of strategies")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--paper", action="store_true")
    given = parser.parse_args()
    if given.paper:
        paper()
        return
    only = [name for name in given.only.split(",") if name] or list(STRATEGIES)
    if importlib.util.find_spec("deepspeed") is None:
        only = [name for name in only if not name.startswith("deepspeed")]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build(home / "wide", WIDE)
        build(home / "tiny", TINY)
        texts = [row["output"] for row in json.loads(alpaca_rows().read_text(encoding="utf-8"))]
        long = [{"prompt": "Go on.", "completion": " ".join(texts[n : n + 12])} for n in range(64)]
        rows = write_rows(home / "rows.jsonl", long)
        table, off = [], []
        one = None
        cases = [("one process", {"type": "single"}, 1, "data")]
        cases += [(n, STRATEGIES[n], int(r), AXES.get(n, "")) for n in only for r in given.ranks.split(",")]
        for name, parallel, ranks, axis in cases:
            wide, tiny = (
                measured(home, model, rows, parallel, ranks=ranks, steps=given.steps) for model in ("wide", "tiny")
            )
            one = one or wide
            memory = wide.memory - tiny.memory
            said = predicted(home / "wide", axis, ranks) if axis else None
            apart = None if said is None else said / memory - 1
            waiting = "" if ranks > (os.cpu_count() or 1) else f"{max(1 - wide.cpu / wide.seconds / ranks, 0):.0%}"
            row = [name, ranks, wide.seconds, f"{one.cpu / wide.cpu:.2f}", waiting, f"{memory / 1e6:.0f}"]
            table.append([*row, "" if said is None else f"{said / 1e6:.0f}", "" if apart is None else f"{apart:+.1%}"])
            print(*table[-1], flush=True)
            off += [name] if apart is not None and abs(apart) > MOST else []
    report(table)
    if off:
        raise SystemExit(f"memory is further off than {MOST:.0%}: {', '.join(off)}")


def paper() -> None:
    """The quickest two layouts of each model, size of the cluster and method, with rows of 8,192 tokens."""
    from luthier.cli.plan import layout
    from luthier.config import parse_config
    from luthier.planner.choose import device, plan
    from luthier.planner.costs import Work
    from luthier.planner.shape import Shape

    table = []
    for (name, sizes), adapter in product(PAPER.items(), ("full", "lora")):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(sizes | {"tie_word_embeddings": False}), "utf-8")
            tree = config(Path(folder), "rows", {"type": "auto"}, 1) | {"adapter": adapter}
            tree["train"] = {"gradient_checkpointing": True}
            shape = Shape(parse_config(tree), "bf16")
            for count in DEVICES:
                rows = max(count, 64)
                found = plan(shape, count, Work(rows, LONG), device("h100", "bf16"))
                for made in found.fitting[:2]:
                    each = rows * LONG / made.seconds / count
                    sent = f"{sum(made.sent.values()) / 1e9:.0f}"
                    row = [name, adapter, count, layout(made.axes), f"{made.bytes / 1e9:.0f}", sent, made.seconds]
                    table.append([*row, f"{made.waiting / made.seconds:.0%}", f"{each:,.0f}"])
                if not found.fitting:
                    least = found.too_large[0]
                    table.append([name, adapter, count, "nothing fits", f"{least.bytes / 1e9:.0f}", "", "", "", ""])
    heads = ["weights", "adapter", "H100s", "layout", "GB each", "sent, GB each", "s/step", "idle", "tokens/s each"]
    print_table(heads, table)


def report(table: Sequence[Sequence[object]]) -> None:
    """The table, with where and how it was measured."""
    print(f"\n{machine()}; {ROWS} rows of {LENGTH} tokens a step, {TOGETHER} in a micro-batch, one thread a process\n")
    heads = ["strategy", "processes", "s/step", "tokens by CPU-second, of one process", "waiting", "memory, MB"]
    print_table([*heads, "predicted", "off by"], table)


if __name__ == "__main__":
    main()
