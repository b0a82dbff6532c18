"""Training speed and memory beside Trainer + peft: `python -m benchmarks.speed [--steps 10]`.

The same model, rows, order, adapter, optimizer and precision (fp32); 8 rows a step; each contender in a process of its
own, one after the other, with the same allocator. The peer pads each batch of 8, as Trainer does by default.
Supervised tokens per second are counted over all steps but the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from typing import Any

from benchmarks.common import MODEL, alpaca_rows, in_process, machine, print_table

BATCH, ROWS, RATE = 8, 200, 2e-4
LEAST_SPEED, MOST_MEMORY = 2.0, 0.5
"""What Luthier promises beside the peer; the command fails where it does not hold."""


def examples_in_order(steps: int) -> list[Any]:
    """The rows of all steps, in the order in which both train on them."""
    from luthier.config import DataConfig, ModelConfig, SourceConfig
    from luthier.data.loader import Loader
    from luthier.data.pack import Layout
    from luthier.data.processor import DataProcessor
    from luthier.models.load import ModelLoader
    from luthier.objectives.sft import Sft

    config = ModelConfig(path=MODEL)
    renderer = ModelLoader().renderer(config)
    source = SourceConfig(path=str(alpaca_rows()), limit=ROWS)
    data = DataConfig(train=[source], held_out=0.0, over_length="truncate", max_length=1024)
    examples = DataProcessor().prepare(data, renderer, Sft()).train
    loader = Loader(examples, batch_size=BATCH, seed=0, layout=Layout(packing=True, tokens=512))
    return [example for _, step in zip(range(steps), loader.steps(), strict=False) for example in step.examples]


def luthier(steps: int) -> dict[str, Any]:
    """The training loop as `luthier train` runs it."""
    import tempfile

    from luthier.config import parse_config
    from luthier.factory import Factory
    from luthier.train.observers.base import Observer, Progress

    times: list[tuple[float, int, float]] = []

    class Watch(Observer):
        """Keeps times, units and losses."""

        def on_step(self, progress: Progress) -> bool:
            """Note one step."""
            times.append((progress.seconds, progress.units, progress.loss))
            return False

    with tempfile.TemporaryDirectory() as scratch:
        tree = {
            "model": MODEL,
            "data": {
                "train": [{"path": str(alpaca_rows()), "limit": ROWS}],
                "held_out": 0.0,
                "over_length": "truncate",
            },
            "adapter": {"type": "lora", "rank": 8},
            "train": {"max_steps": steps, "batch_size": BATCH, "learning_rate": RATE, "save_every": None}
            | {"precision": "fp32", "schedule": "constant", "warmup_steps": 0},
            "output": f"{scratch}/run",
        }
        Factory().fine_tune(parse_config(tree), observers=[Watch()])
    return _summary(times)


def trainer(steps: int) -> dict[str, Any]:
    """transformers' Trainer with a peft model and padded batches."""
    import tempfile

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from benchmarks.exactness import padded
    from luthier.models.catalogue import entries

    order = examples_in_order(steps)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(entries()[MODEL].folder), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    marks: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the time at each step's end."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            """Start the clock."""
            marks.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Note one step."""
            marks.append(time.perf_counter())

    class InOrder(Trainer):  # type: ignore[misc]
        """The rows as they come."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(order)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        run = InOrder(model=model, args=arguments, train_dataset=order, data_collator=padded, callbacks=[Watch()])
        run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    units = [sum(e.supervised for e in order[i * BATCH : (i + 1) * BATCH]) for i in range(steps)]
    seconds = [b - a for a, b in itertools.pairwise(marks)]
    return _summary(list(zip(seconds, units, losses, strict=True)))


def _summary(times: list[tuple[float, int, float]]) -> dict[str, Any]:
    seconds, units = sum(t[0] for t in times[1:]), sum(t[1] for t in times[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"tokens_per_second": units / seconds, "units": units, "peak_gb": peak, "losses": [t[2] for t in times]}


def main() -> None:
    """Run both and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", choices=["luthier", "trainer"])
    options = parser.parse_args()
    if options.only:
        print(json.dumps(globals()[options.only](options.steps)))
        return
    alpaca_rows()
    print(machine())
    found = {
        name: in_process("benchmarks.speed", "--only", name, "--steps", str(options.steps))
        for name in ("trainer", "luthier")
    }
    rows = [
        (title, found[name]["tokens_per_second"], found[name]["peak_gb"])
        for title, name in (("transformers Trainer + peft, padded", "trainer"), ("luthier", "luthier"))
    ]
    print_table(("contender", "supervised tokens/s", "peak GB"), rows)
    speed = found["luthier"]["tokens_per_second"] / found["trainer"]["tokens_per_second"]
    memory = found["luthier"]["peak_gb"] / found["trainer"]["peak_gb"]
    apart = max(abs(a / b - 1) for a, b in zip(found["luthier"]["losses"], found["trainer"]["losses"], strict=True))
    fast, lean = speed >= LEAST_SPEED, memory <= MOST_MEMORY
    print(
        f"speed {speed:.2f} x, memory {memory:.2f} x; the losses of {options.steps} steps differ by at most {apart:.1e}"
    )
    if not (fast and lean):
        sys.exit(f"expected at least {LEAST_SPEED} x the speed and at most {MOST_MEMORY} x the memory")


if __name__ == "__main__":
    main()
