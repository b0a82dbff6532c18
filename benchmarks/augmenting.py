"""Do new rows help where there are few? `python -m benchmarks.augmenting [--data alpaca] [--seeds 5] [--jobs 2]`.

SmolLM2 is tuned on 50 real rows by LoRA with the defaults, and on the same rows with those that each method makes of
them, for as many steps of 8 rows: what is made takes the place of repetition. Each seed draws 50 other rows, makes
other rows of them and trains in another order; the held-out 100 rows are the same, and nothing is made of them. Lower
losses are better, and a win is a lower loss than `none` has with the same seed. Words need `luthier models fetch
wordnet minilm-l6-v2`; back-translation is left out where Apertium (`apt-get install apertium-eng-spa`) is not there.

Few methods help everywhere; the command fails where one does harm: where its mean loss is more than 2 % above `none`'s.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from benchmarks.common import alpaca_rows, chatterbot_rows, in_process, machine, print_table, tuned, write_rows

SYNONYMS: Mapping[str, Any] = {"type": "synonyms", "copies": 2}
RECOMBINATION: Mapping[str, Any] = {"type": "recombination"}
BACK: Mapping[str, Any] = {"type": "back-translation", "by": "apertium", "languages": ["eng", "spa"]}
USUAL, MEANING = ["facts", "near-duplicates"], ["facts", "near-duplicates", "meaning"]
METHODS: dict[str, tuple[list[Mapping[str, Any]], list[str]]] = {
    "none": ([], USUAL),
    "synonyms": ([SYNONYMS], USUAL),
    "recombination": ([RECOMBINATION], USUAL),
    "back-translation": ([BACK], USUAL),
    "synonyms, meaning": ([SYNONYMS], MEANING),
    "all": ([SYNONYMS, RECOMBINATION, BACK], USUAL),
    "all, meaning": ([SYNONYMS, RECOMBINATION, BACK], MEANING),
}
"""Augmenters and guards of each method; `meaning` is the guard that compares embeddings."""
ROWS, HELD_OUT, STEPS, BATCH, LENGTH = 50, 100, 20, 8, 384
MOST_HARM = 0.02


def drawn(data: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a seed, and those that are held out of all seeds; no question twice."""
    text = (alpaca_rows() if data == "alpaca" else chatterbot_rows()).read_text(encoding="utf-8")
    rows = json.loads(text) if data == "alpaca" else [json.loads(line) for line in text.splitlines()]
    answers = ("output", "completion")
    rows = [*{json.dumps([row[key] for key in row if key not in answers]): row for row in rows}.values()]
    random.Random(0).shuffle(rows)
    return random.Random(seed + 1).sample(rows[HELD_OUT:], ROWS), rows[:HELD_OUT]


def one(method: str, data: str, seed: int, steps: int) -> dict[str, Any]:
    """Train in this process."""
    augmenters, guards = METHODS[method]
    rows, held_out = drawn(data, seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "train": [write_rows(Path(folder) / "rows.jsonl", rows)],
            "held_out": [write_rows(Path(folder) / "held_out.jsonl", held_out)],
            "augment": [{**augmenter, "seed": seed} for augmenter in augmenters],
            "guard": guards,
            "max_length": LENGTH,
        }
        return tuned(settings, steps=steps, batch_size=BATCH, seed=seed)


def table(found: Mapping[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A line for each method; differences and wins are against `none` with the same seed."""
    losses = {method: [run["loss"] for run in runs] for method, runs in found.items()}
    lines = []
    for method, own in losses.items():
        apart = [a - b for a, b in zip(own, losses["none"], strict=True)]
        wins = f"{sum(one < 0 for one in apart)} of {len(apart)}"
        lines.append(
            [
                method, f"{mean(run['rows'] for run in found[method]):.0f}",
                f"{mean(sum(run['refused'].values()) for run in found[method]):.0f}",
                f"{mean(own):.4f} ({pstdev(own):.4f})",
                *(("", "") if method == "none" else (f"{mean(apart):+.4f} ({pstdev(apart):.4f})", wins)),
            ]
        )  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=["alpaca", "chatterbot"], default="alpaca")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--methods", default="/".join(METHODS), help="with a / between them; none is always among them")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        method, seed = given.one
        print(json.dumps(one(method, given.data, int(seed), given.steps)))
        return
    if unknown := set(given.methods.split("/")) - set(METHODS):
        parser.error(f"--methods: unknown: {'/'.join(sorted(unknown))}; allowed: {'/'.join(METHODS)}")
    methods = [method for method in METHODS if method in {"none", *given.methods.split("/")}]
    if shutil.which("apertium") is None:
        methods = [method for method in methods if BACK not in METHODS[method][0]]

    def run(case: tuple[int, str]) -> dict[str, Any]:
        seed, method = case
        options = ["--data", given.data, "--steps", str(given.steps)]
        found = in_process("benchmarks.augmenting", *options, "--one", method, str(seed))
        said = f"{found['loss']:.4f}, {found['rows']} rows, refused: {found['refused']}"
        print(f"seed {seed}, {method}: {said}", file=sys.stderr, flush=True)
        return found

    drawn(given.data, 0)  # downloaded once, before there are several
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    cases = list(product(range(given.seeds), methods))
    with ThreadPoolExecutor(given.jobs) as pool:
        for (_, method), result in zip(cases, pool.map(run, cases), strict=True):
            found[method].append(result)
    print(f"\n{machine()}; {given.data}, {ROWS} rows, {given.steps} steps of {BATCH}; mean (spread) over seeds\n")
    print_table(["method", "rows", "refused", "held-out loss", "against none", "wins"], table(found))
    usual = mean(run["loss"] for run in found["none"])
    harmful = [m for m in methods if mean(run["loss"] for run in found[m]) > usual * (1 + MOST_HARM)]
    if harmful:
        raise SystemExit(f"does harm: {', '.join(harmful)}")


if __name__ == "__main__":
    main()
