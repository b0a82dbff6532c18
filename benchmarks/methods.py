"""Every way to train, on one real job: `python -m benchmarks.methods [--steps 20] [--only lora,full]`.

SmolLM2-135M-Instruct on the shipped questions about Luthier (8 rows a step, fp32), each method in a process of its own,
one after the other, at a learning rate that is usual for it. Prints trainable parameters, peak memory, seconds a step
(median) and the held-out loss after the last step. `--claim` prints full tuning beside LoRA and QLoRA, with and without
gradient checkpointing, the arithmetic behind their memory, and what it becomes for a model of 7 billion parameters.
8 bits are trained without packing: LLM.int8() treats outliers of a whole batch alike, so that packed rows would change
each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.common import MODEL, SHIPPED, in_process, machine, print_table

LORA = {"type": "lora", "rank": 8}
Way = tuple[dict[str, Any], float, dict[str, Any]]
"""An adapter, a learning rate that is usual for it, and further settings of training."""
METHODS: dict[str, Way] = {
    "full": ({"type": "full"}, 5e-5, {}),
    "freeze (last 4 layers)": ({"type": "freeze", "last_layers": 4}, 2e-4, {}),
    "lora": (LORA, 1e-3, {}),
    "lora, rank: auto": ({**LORA, "rank": "auto"}, 1e-3, {}),
    "lora, rsLoRA": ({**LORA, "use_rslora": True}, 5e-4, {}),
    "lora, DoRA": ({**LORA, "use_dora": True}, 1e-3, {}),
    "lora, LoRA+": ({**LORA, "loraplus_lr_ratio": 16}, 2e-4, {}),
    "lora, PiSSA": ({**LORA, "init_lora_weights": "pissa"}, 2e-4, {}),
    "lora, OLoRA": ({**LORA, "init_lora_weights": "olora"}, 2e-4, {}),
    "lora, EVA": ({**LORA, "init_lora_weights": "eva"}, 1e-3, {}),
    "adalora": ({"type": "adalora"}, 2e-3, {}),
    "qlora, 4 bits": ({"type": "qlora", "bits": 4}, 1e-3, {}),
    "qlora, 8 bits": ({"type": "qlora", "bits": 8}, 1e-3, {}),
    "bottleneck": ({"type": "bottleneck"}, 1e-3, {}),
    "oft": ({"type": "oft"}, 1e-3, {}),
    "vera": ({"type": "vera"}, 1e-2, {}),
    "ia3": ({"type": "ia3"}, 1e-2, {}),
    "prefix": ({"type": "prefix"}, 1e-2, {}),
    "p-tuning": ({"type": "p-tuning"}, 1e-3, {}),
    "prompt": ({"type": "prompt"}, 1e-1, {}),
}
CLAIM: dict[str, Way] = {
    "full": ({"type": "full"}, 5e-5, {}),
    "full, checkpointing": ({"type": "full"}, 5e-5, {"gradient_checkpointing": True}),
    "lora": (LORA, 1e-3, {}),
    "lora, checkpointing": (LORA, 1e-3, {"gradient_checkpointing": True}),
    "qlora, 4 bits": ({"type": "qlora", "bits": 4}, 1e-3, {}),
    "qlora, 4 bits, checkpointing": ({"type": "qlora", "bits": 4}, 1e-3, {"gradient_checkpointing": True}),
}
BILLIONS = 6.74
"""Parameters of a 7B Llama."""


def one(name: str, steps: int, claim: bool) -> dict[str, Any]:
    """Train by one method in this process."""
    from statistics import median

    from luthier.adapters.base import count_parameters
    from luthier.config import parse_config
    from luthier.factory import Factory
    from luthier.train.memory import held
    from luthier.train.observers.base import Observer, Progress

    adapter, rate, train = (CLAIM if claim else METHODS)[name]
    seconds: list[float] = []

    class Watch(Observer):
        """Keeps times."""

        def on_step(self, progress: Progress) -> bool:
            """Note one step."""
            seconds.append(progress.seconds)
            return False

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            {
                "model": MODEL,
                "data": {
                    "train": [{"path": str(SHIPPED), "limit": 300}], "held_out": 0.2, "max_length": 512,
                    "packing": adapter.get("bits") != 8,
                },
                "adapter": adapter,
                "train": {
                    "learning_rate": rate, "batch_size": 8, "max_steps": steps, "epochs": 99, "evaluate_every": None,
                    "save_every": None, **train,
                },
                "output": {"dir": folder, "final": "last"},
            }
        )  # fmt: skip
        started = time.monotonic()
        model, metrics = Factory().fine_tune(config, observers=[Watch()])
        count, total = count_parameters(model)
        import torch

        static = held(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)]))
    return {
        "trained": count,
        "total": total,
        "peak": metrics["peak_memory_bytes"],
        "seconds": median(seconds[1:]),
        "loss": metrics["loss"],
        "weights": static.weights,
        "gradients": static.gradients,
        "all": time.monotonic() - started,
    }


def table(found: dict[str, dict[str, Any]]) -> None:
    """One line for each method; time and memory also as ratios to the first."""
    first = next(iter(found.values()))
    rows = [
        [
            name, f"{r['trained']:,}", f"{100 * r['trained'] / r['total']:.3f} %",
            f"{r['peak'] / 1e9:.2f} ({r['peak'] / first['peak']:.2f} x)",
            f"{r['seconds']:.2f} ({r['seconds'] / first['seconds']:.2f} x)", f"{r['loss']:.3f}",
        ]
        for name, r in found.items()
    ]  # fmt: skip
    print_table(["method", "trained", "of all", "peak memory, GB", "seconds a step", "held-out loss"], rows)


def arithmetic(found: dict[str, dict[str, Any]]) -> None:
    """What stays in memory: weights, gradients and AdamW's two means; measured here, and for 7 billion parameters."""
    print("\nHeld from step to step (weights + gradients + AdamW); the rest is activations and the process:\n")
    rows = []
    for name in ("full", "lora", "qlora, 4 bits"):
        if name not in found:
            continue
        r = found[name]
        here = (r["weights"] + 3 * r["gradients"]) / 1e9
        share = r["trained"] / r["total"]
        small = share if name == "full" else share / 3.1  # a rank costs in + out for a weight of in x out
        width = {"full": 4.0, "lora": 2.0, "qlora, 4 bits": 0.55}[name]
        large = BILLIONS * (width + small * 12)
        rows.append([name, f"{here:.2f}", f"{width:g} bytes a weight + 12 a trained one", f"{large:.1f}"])
    print_table(["method", "here, GB", "at 7B", "7B, GB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="", help="names, separated by ;")
    parser.add_argument("--claim", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.steps, given.claim)))
        return
    chosen = [name for name in given.only.split(";") if name] or list(CLAIM if given.claim else METHODS)
    found, failed = {}, []
    for name in chosen:
        extra = ["--claim"] if given.claim else []
        try:
            found[name] = in_process("benchmarks.methods", "--one", name, "--steps", str(given.steps), *extra)
        except subprocess.CalledProcessError:
            failed.append(name)  # it has said why; the others are not lost
            continue
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    print(f"\n{machine()}; {given.steps} steps of 8 rows\n")
    table(found)
    if given.claim:
        arithmetic(found)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
