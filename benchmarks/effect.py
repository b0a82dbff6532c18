"""Does cleaning help? `python -m benchmarks.effect [--seeds 3] [--steps 25] [--jobs 2]`.

Real rows (alpaca_en, of at most 600 characters, none like another) are spoiled as `benchmarks.cleaning` does: broken
encodings, refusals and answers that are cut off in place of what was there; foreign rows (chatterbot's) and many copies
of a few rows besides. SmolLM2 is tuned by LoRA with the defaults for as many steps of 8 rows on the spoiled rows, on
what `luthier data clean` with the usual cleaners and `language` leaves of them, and on the rows as they were before,
which no cleaner can bring back. The loss is that of 100 rows that were never touched. Answers to other questions, and
wrong ones, are not planted: no rule finds them. Each seed spoils, draws and trains anew. The command fails where the
cleaned rows are not better in the mean over seeds and in most of them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from benchmarks.cleaning import FOREIGN, Pair, base, copied, cut, mojibake, refusal
from benchmarks.common import chatterbot_rows, in_process, machine, print_table, tuned, write_rows
from luthier.cli.clean import USUAL, chosen_cleaners
from luthier.config import SourceConfig
from luthier.data.clean.run import clean_source

CASES = ("spoiled", "cleaned", "unspoiled")
ROWS, HELD_OUT, STEPS, BATCH, LENGTH = 240, 100, 25, 8, 384
LONGEST, SHARE = 600, 0.1
"""Characters of a row; share of the rows that each kind of dirt falls on, or that are foreign besides."""
COPIED, COPIES = 10, 12
CLEANERS = (f"{USUAL},language", ["language.keep=[en]"])


def spoiled(rows: Sequence[Pair], seed: int) -> tuple[list[Pair], dict[str, int]]:
    """Rows with dirt among them, in another order; how much there is of each kind."""
    chance, dirty, planted = random.Random(seed), list(rows), Counter[str]()
    left = chance.sample(range(len(rows)), len(rows))
    ways: dict[str, Callable[[Pair, random.Random], Pair]] = {"cut off": cut, "refusal": refusal, "encoding": mojibake}
    for kind, spoil in ways.items():
        fit = [n for n in left if kind != "cut off" or (len(rows[n][1]) > 250 and "\n" not in rows[n][1])]
        for place in fit[: round(SHARE * len(rows))]:
            dirty[place] = spoil(rows[place], chance)
            left.remove(place)
            planted[kind] += 1
    said = [json.loads(line) for line in chatterbot_rows(*FOREIGN).read_text(encoding="utf-8").splitlines()]
    foreign = [(row["prompt"], row["completion"]) for row in said if len(row["completion"]) > 40]
    foreign = chance.sample(foreign, round(SHARE * len(rows)))
    copies = [copied(rows[place], chance) for place in left[:COPIED] for _ in range(COPIES)]
    planted |= {"foreign": len(foreign), "copies": len(copies)}
    return chance.sample(every := dirty + foreign + copies, len(every)), dict(planted)


def written(folder: Path, pairs: Sequence[Pair], seed: int) -> list[str]:
    """Write the rows of a seed, in all cases; says what was planted and what cleaning did."""
    drawn = random.Random(seed).sample(pairs, ROWS + HELD_OUT)
    dirty, planted = spoiled(drawn[HELD_OUT:], seed)
    sides = {"held_out": drawn[:HELD_OUT], "unspoiled": drawn[HELD_OUT:], "spoiled": dirty}
    for name, rows in sides.items():
        write_rows(folder / f"{name}.jsonl", ({"prompt": asked, "completion": said} for asked, said in rows))
    source = SourceConfig(path=str(folder / "spoiled.jsonl"))
    tally = clean_source(source, chosen_cleaners(*CLEANERS), str(folder / "out"))
    (folder / "out" / "rows.jsonl").rename(folder / "cleaned.jsonl")
    found = (tally.dropped, tally.mended)
    dropped, mended = (", ".join(f"{rule} {count}" for rule, count in one.most_common()) for one in found)
    kinds = ", ".join(f"{kind} {count}" for kind, count in planted.items())
    return [str(seed), str(len(dirty)), kinds, dropped, mended, str(tally.kept)]


def one(folder: str, case: str, seed: int, steps: int) -> dict[str, Any]:
    """Train in this process."""
    settings = {
        "train": [f"{folder}/{case}.jsonl"],
        "held_out": [f"{folder}/held_out.jsonl"],
        "max_length": LENGTH,
        "bad_rows": "drop",
    }
    return tuned(settings, steps=steps, batch_size=BATCH, seed=seed)


def report(losses: Mapping[str, Sequence[float]]) -> bool:
    """Print the losses of each seed and in the mean; whether cleaning helped."""
    apart = [after - before for before, after in zip(losses["spoiled"], losses["cleaned"], strict=True)]
    lines: list[list[object]] = [
        [seed, *(f"{losses[case][seed]:.4f}" for case in CASES), f"{apart[seed]:+.4f}"] for seed in range(len(apart))
    ]
    means = (f"{mean(losses[case]):.4f} ({pstdev(losses[case]):.4f})" for case in CASES)
    lines.append(["mean (spread)", *means, f"{mean(apart):+.4f} ({pstdev(apart):.4f})"])
    print_table(["seed", *CASES, "cleaned - spoiled"], lines)
    return mean(apart) < 0 and sum(one < 0 for one in apart) > len(apart) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, case, seed = given.one
        print(json.dumps(one(folder, case, int(seed), given.steps)))
        return
    pairs = [pair for pair in base() if len("".join(pair)) <= LONGEST]
    with tempfile.TemporaryDirectory() as scratch:

        def run(chosen: tuple[int, str]) -> float:
            seed, case = chosen
            options = ["--steps", str(given.steps)]
            found = in_process("benchmarks.effect", *options, "--one", f"{scratch}/{seed}", case, str(seed))
            print(f"seed {seed}, {case}: {found['loss']:.4f}, {found['rows']} rows", file=sys.stderr, flush=True)
            return float(found["loss"])

        made = []
        for seed in range(given.seeds):
            (Path(scratch) / str(seed)).mkdir()
            made.append(written(Path(scratch) / str(seed), pairs, seed))
            print(*made[-1], sep="; ", file=sys.stderr, flush=True)
        cases = list(product(range(given.seeds), CASES))
        losses: dict[str, list[float]] = {case: [] for case in CASES}
        with ThreadPoolExecutor(given.jobs) as pool:
            for (_, case), loss in zip(cases, pool.map(run, cases), strict=True):
                losses[case].append(loss)
    print(f"\n{machine()}; {given.steps} steps of {BATCH} rows; {HELD_OUT} clean held-out rows\n")
    print_table(["seed", "rows", "planted", "dropped", "mended", "kept"], made)
    print("\nHeld-out loss:\n")
    if not report(losses):
        raise SystemExit("cleaning did not help in the mean and in most seeds")


if __name__ == "__main__":
    main()
