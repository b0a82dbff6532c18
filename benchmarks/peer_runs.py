"""One contender of `benchmarks.peers`, in whatever environment it was built for: `python peer_runs.py NAME JOB.json`.

Stands alone: it imports nothing of Luthier but for Luthier's own run. The job holds the model's folder, the rendered
rows in order, the rows as they were written, and the number of steps. Prints one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RANK, RATE = 8, 2e-4


def watched() -> tuple[Any, list[float], list[int]]:
    """A callback for a Trainer of any peer, the times of its steps, and the supervised tokens of each."""
    from transformers import Trainer, TrainerCallback

    marks: list[float] = []
    units: list[int] = []
    taken = Trainer.get_batch_samples

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = taken(self, *args, **kwargs)
        units.append(sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in found[0]))
        return found

    Trainer.get_batch_samples = counting

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the time at each step's end."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            """Start the clock."""
            marks.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Note one step."""
            marks.append(time.perf_counter())

    return Watch(), marks, units


def arguments(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """What all peers are told."""
    return {
        "output_dir": folder, "max_steps": job["steps"], "learning_rate": RATE, "lr_scheduler_type": "constant",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "bf16": False,
    }  # fmt: skip


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer with a peft model; each batch padded to its longest row."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    watch, marks, units = watched()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            per_device_train_batch_size=job["batch"], use_cpu=True, train_sampling_strategy="sequential",
            **arguments(job, folder),
        )  # fmt: skip
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in job["rows"]]
        collator = DataCollatorForSeq2Seq(_tokenizer(job))
        run = Trainer(model=model, args=settings, train_dataset=rows, data_collator=collator, callbacks=[watch])
        run.train()
    return _summary(marks, units, run.state.log_history)


def trl(job: dict[str, Any]) -> dict[str, Any]:
    """TRL's SFTTrainer with its defaults, or with packing."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    watch, marks, units = watched()
    rows = [
        {"input_ids": r["input_ids"], "completion_mask": [int(x != -100) for x in r["labels"]]} for r in job["rows"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            per_device_train_batch_size=1 if job["packing"] else job["batch"], packing=job["packing"], use_cpu=True,
            max_length=1024, **arguments(job, folder),
        )  # fmt: skip
        run = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=_tokenizer(job),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"),
            callbacks=[watch],
        )
        run.train()
    return _summary(marks, units, run.state.log_history)


def llamafactory(job: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory from its own rows and template, with its defaults or with neat packing and no checkpointing."""
    from llamafactory.train import tuner

    watch, marks, units = watched()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "dataset_info.json").write_text(json.dumps({"rows": {"file_name": job["written"]}}))
        packed = {"packing": True, "neat_packing": True, "disable_gradient_checkpointing": True}
        tuner.run_exp(
            {
                "model_name_or_path": job["model"], "stage": "sft", "do_train": True, "finetuning_type": "lora",
                "lora_rank": RANK, "lora_alpha": 2 * RANK, "lora_target": "all", "dataset": "rows",
                "dataset_dir": folder, "cutoff_len": 1024, "overwrite_cache": True, "use_cpu": True,
                "per_device_train_batch_size": 1 if job["packing"] else job["batch"],
                **(packed if job["packing"] else {}), **arguments(job, f"{folder}/run"),
            },
            callbacks=[watch],
        )  # fmt: skip
        log = json.loads(Path(folder, "run", "trainer_state.json").read_text())["log_history"]
    return _summary(marks, units, log)


def luthier(job: dict[str, Any]) -> dict[str, Any]:
    """The training loop as `luthier train` runs it, with the kernels of the job."""
    from luthier.config import parse_config
    from luthier.factory import Factory
    from luthier.train.observers.base import Observer, Progress

    seen: list[Progress] = []

    class Watch(Observer):
        """Keeps what is said of each step."""

        def on_step(self, progress: Progress) -> bool:
            """Note one step."""
            seen.append(progress)
            return False

    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "model": job["model"],
            "data": {"train": job["written"], "held_out": 0.0, "over_length": "truncate"},
            "adapter": {"type": "lora", "rank": RANK},
            "train": {"max_steps": job["steps"], "batch_size": job["batch"], "learning_rate": RATE, "save_every": None}
            | {"precision": "fp32", "schedule": "constant", "warmup_steps": 0, "kernels": job["kernels"]},
            "output": f"{folder}/run",
        }
        Factory().fine_tune(parse_config(tree), observers=[Watch()])
    marks = [0.0, *itertools.accumulate(progress.seconds for progress in seen)]
    return _summary(marks, [progress.units for progress in seen], [{"loss": progress.loss} for progress in seen])


def gemm(_: dict[str, Any]) -> dict[str, Any]:
    """The best rate of a product of two 2048 x 2048 matrices, FLOP/s."""
    import torch

    a, best = torch.randn(2048, 2048), 0.0
    for _try in range(8):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return {"rate": best}


def _tokenizer(job: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job["model"])


def _summary(marks: list[float], units: list[int], log: list[dict[str, Any]]) -> dict[str, Any]:
    """All steps but the first."""
    seconds, counted = marks[-1] - marks[1], sum(units[1 : len(marks) - 1])
    return {
        "tokens_per_second": counted / seconds,
        "seconds_per_step": seconds / (len(marks) - 2),
        "tokens_per_step": counted / (len(marks) - 2),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "losses": [entry["loss"] for entry in log if "loss" in entry],
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
