"""Does the reward rise? GRPO on sums of two digits with the real model: `python -m benchmarks.grpo [--steps 60]`.

The questions and right answers are those of reasoning-gym's `chain_sum` (two terms of one digit); an answer is worth 1
when its first number is the right one. Prints the mean reward of sampled answers in the first and the last ten steps,
and of the likeliest answers to 100 questions that are never trained on, before and after, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, machine, print_table

EDGE = 10
"""Steps at both ends whose rewards are compared."""


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with their right answers."""
    import reasoning_gym

    made = reasoning_gym.create_dataset(
        "chain_sum", size=count, seed=seed, min_terms=2, max_terms=2, min_digits=1, max_digits=1
    )
    return [
        {"prompt": f"{entry['question']} Answer with the number only.", "answer": str(entry["answer"])}
        for entry in made
    ]


def config(folder: Path, steps: int, rate: float) -> Any:
    """A run of the command line's kind."""
    from luthier.config import parse_config

    def written(name: str, made: list[dict[str, Any]]) -> str:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        return str(folder / name)

    asked = {row["prompt"]: row for row in rows(1000, 1)}
    held = list({row["prompt"]: row for row in rows(1000, 2)}.values())[:100]
    train = [row for prompt, row in asked.items() if prompt not in {row["prompt"] for row in held}]
    return parse_config(
        {
            "model": MODEL,
            "data": {"train": written("train.jsonl", train), "held_out": [written("held.jsonl", held)]},
            "adapter": {"type": "lora", "rank": 8},
            "objective": {
                "type": "grpo",
                "rewards": [{"type": "exact_match", "extract": r"^\D*?(-?\d+)"}],
                "samples": 8,
                "max_new_tokens": 8,
            },
            "train": {
                "learning_rate": rate, "batch_size": 8, "epochs": 100, "max_steps": steps, "schedule": "constant",
                "warmup_steps": 3, "evaluate_every": None, "save_every": None,
            },
            "output": {"dir": str(folder / "run"), "final": "last"},
        }
    )  # fmt: skip


def answered(path: str, run: Any) -> list[float]:
    """What the likeliest answer of a model to each held-out question is worth."""
    from luthier.config import ModelConfig
    from luthier.data.conversation import Task
    from luthier.inference.engine import Sampling
    from luthier.inference.hf import HfEngine
    from luthier.models.load import ModelLoader
    from luthier.train.check import Ready

    loader, model = ModelLoader(), ModelConfig(path=path)
    ready: Ready = factory().prepare(run)
    tasks = [example.content for example in ready.data.held_out if isinstance(example.content, Task)]
    engine = HfEngine(loader.load_for_use(model), loader.renderer(model))
    texts = dict(engine.generate([task.asked for task in tasks], Sampling(run.objective.max_new_tokens)))
    score = run.objective.rewards[0].open(loader)
    found: list[float] = score(tasks, [texts[i] for i in range(len(tasks))])
    return found


def factory() -> Any:
    """Imported late, for a quick --help."""
    import luthier

    return luthier.Factory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    given = parser.parse_args()

    from luthier.evaluate.compare import Scores, compare
    from luthier.train.observers.base import Observer, Progress

    rewards: list[float] = []

    class Watch(Observer):
        """Keeps the reward of each step."""

        def on_step(self, progress: Progress) -> bool:
            """Note and print it."""
            rewards.append(progress.metrics["reward"])
            spent = progress.seconds + progress.metrics["rollout_seconds"]
            print(f"step {progress.state.step}: reward {rewards[-1]:.3f}, {spent:.1f} s", flush=True)
            return False

    with tempfile.TemporaryDirectory() as scratch:
        run = config(Path(scratch), given.steps, given.learning_rate)
        started = time.monotonic()
        factory().fine_tune(run, observers=[Watch()])
        minutes = (time.monotonic() - started) / 60
        before, after = answered(MODEL, run), answered(run.output.dir, run)
    found = compare(Scores("reward", *([[one, 1.0] for one in side] for side in (before, after))))
    first, last = (sum(part) / len(part) for part in (rewards[:EDGE], rewards[-EDGE:]))
    print(f"\n{machine()}; {given.steps} steps of 8 questions x 8 answers in {minutes:.1f} minutes")
    print_table(
        ["mean reward", "before", "after", "change, 95 % interval"],
        [
            [f"sampled, first and last {EDGE} steps", first, last, f"{last - first:+.3f}"],
            [f"{len(before)} held-out questions, likeliest answer", found.base, found.tuned,
             f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] {found.verdict}"],
        ],
    )  # fmt: skip
    if found.verdict != "better":
        raise SystemExit("the reward did not rise beyond its noise")


if __name__ == "__main__":
    main()
