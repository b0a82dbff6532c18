"""Does `luthier check` predict what a run takes? `python -m benchmarks.prediction [--only 0,3]`.

A grid of models, lengths, batches and methods on real rows, in fp32. Each case is checked in one process and trained
for one pass in another; peak memory and seconds a step are held against each other. Models but SmolLM2 are random ones
of its vocabulary. The command fails where memory is off by more than 10 %, or too low by more than 5 %, or time by more
than 20 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, alpaca_rows, in_process, machine, print_table

STEPS = 10
"""Steps of one pass over the rows."""
MODELS = {"narrow": (256, 768, 6, 4), "middle": (512, 1536, 12, 8), "deep": (384, 1152, 24, 6)}
"""Width, inner width, layers and heads."""
RECOMPUTED = {"gradient_checkpointing": True}
LONG = {"micro_batch_tokens": 2048}
PADDED: dict[str, Any] = {"micro_batch_size": 2}
CASES: list[tuple[str, Any, str, int, int, dict[str, Any]]] = [
    ("narrow", "lora", "sft", 256, 8, {}),
    ("narrow", "full", "sft", 512, 8, {}),
    ("narrow", "full", "sft", 1024, 8, RECOMPUTED | LONG),
    ("middle", "lora", "sft", 512, 8, {}),
    ("middle", "full", "sft", 256, 16, {}),
    ("middle", "full", "sft", 512, 8, RECOMPUTED),
    ("middle", "lora", "dpo", 512, 4, {}),
    ("middle", "bottleneck", "sft", 512, 8, {}),
    ("deep", "lora", "sft", 1024, 4, {}),
    ("deep", "full", "sft", 512, 8, {"optimizer": "adafactor"}),
    ("deep", "lora", "sft", 1024, 16, RECOMPUTED | LONG),
    ("smollm2", "lora", "sft", 256, 4, {}),
    ("smollm2", "full", "sft", 512, 4, {}),
    ("smollm2", "qlora", "sft", 512, 4, {}),
    ("smollm2", "lora", "sft", 512, 8, PADDED),
    ("smollm2", "lora", "sft", 512, 8, RECOMPUTED),
]
MOST, LEAST, SECONDS = 0.10, -0.05, 0.20
"""How far a prediction of memory may be above and below, and one of time off."""


def build(name: str, folder: Path) -> str:
    """A random model with the real one's tokenizer."""
    if name == "smollm2":
        return MODEL
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.config import ModelConfig
    from luthier.models.load import ModelLoader

    width, inner, layers, heads = MODELS[name]
    tokenizer = ModelLoader().renderer(ModelConfig(path=MODEL)).tokenizer
    config = LlamaConfig(
        vocab_size=49152, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def rows(objective: str, count: int, folder: Path) -> str:
    """Real instructions; a rejected answer is that of another row."""
    found = json.loads(alpaca_rows().read_text(encoding="utf-8"))
    found = [row for row in found if row["output"]][: 2 * count : 2]
    if objective == "dpo":
        others = [*found[1:], found[0]]
        found = [
            {"prompt": row["instruction"], "chosen": row["output"], "rejected": other["output"]}
            for row, other in zip(found, others, strict=True)
        ]
    path = folder / "rows.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return str(path)


def case(number: int, folder: Path) -> Any:
    """The config of a case."""
    from luthier.config import parse_config

    model, adapter, objective, length, batch, train = CASES[number]
    return parse_config(
        {
            "model": build(model, folder),
            "data": {
                "train": [rows(objective, STEPS * batch, folder)], "held_out": 0.0, "max_length": length,
                "over_length": "drop" if objective == "dpo" else "truncate", "packing": train is not PADDED,
            },
            "adapter": adapter,
            "objective": objective,
            "train": {"learning_rate": 1e-4, "batch_size": batch, "epochs": 1, **train},
            "output": str(folder / "run"),
        }
    )  # fmt: skip


def check(number: int) -> dict[str, Any]:
    """What is predicted."""
    from luthier.factory import Factory
    from luthier.system.hardware import room_bytes

    with tempfile.TemporaryDirectory() as scratch:
        config = case(number, Path(scratch))
        fit = Factory().check(config, most_bytes=room_bytes()).fit
        assert fit is not None
        return asdict(fit) | {"peak": fit.peak}


def train(number: int) -> dict[str, Any]:
    """What the run takes."""
    from luthier.factory import Factory
    from luthier.train.observers.base import Observer, Progress

    seconds: list[float] = []

    class Watch(Observer):
        """Keeps times."""

        def on_step(self, progress: Progress) -> bool:
            """Note one step."""
            seconds.append(progress.seconds)
            return False

    with tempfile.TemporaryDirectory() as scratch:
        config = case(number, Path(scratch))
        _, metrics = Factory().fine_tune(config, observers=[Watch()])
    return {"peak": metrics["peak_memory_bytes"], "seconds": sum(seconds) / len(seconds), "steps": len(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="numbers of cases, separated by commas")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(train(given.one) if given.train else check(given.one)))
        return
    chosen = [int(number) for number in given.only.split(",") if number] or range(len(CASES))
    table, failed = [], []
    for number in chosen:
        said = in_process("benchmarks.prediction", "--one", str(number))
        took = in_process("benchmarks.prediction", "--one", str(number), "--train")
        memory, time = said["peak"] / took["peak"] - 1, said["seconds_per_step"] / took["seconds"] - 1
        model, adapter, objective, length, batch, extra = CASES[number]
        more = ", ".join(f"{key}={value}" for key, value in extra.items())
        table.append(
            [
                number, model, f"{adapter} {objective} {more}", length, batch,
                f"{said['peak'] / 1e9:.2f}", f"{took['peak'] / 1e9:.2f}", f"{100 * memory:+.1f} %",
                f"{said['seconds_per_step']:.2f}", f"{took['seconds']:.2f}", f"{100 * time:+.1f} %",
            ]
        )  # fmt: skip
        print(*table[-1], file=sys.stderr, flush=True)
        if not LEAST <= memory <= MOST or abs(time) > SECONDS:
            failed.append(number)
    print(f"\n{machine()}; {STEPS} steps each\n")
    columns = ["", "model", "method", "tokens", "rows", "GB said", "GB", "off", "s a step said", "s", "off"]
    print_table(columns, table)
    if failed:
        raise SystemExit(f"further off than promised: {failed}")


if __name__ == "__main__":
    main()
