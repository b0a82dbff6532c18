"""What does `rank: auto` gain? `python -m benchmarks.ranks [--data alpaca] [--seeds 5] [--rates ...] [--jobs 2]`.

SmolLM2 on real rows, 20 steps of 8; LoRA of rank 8 on all layers against measured ranks and directions with as many
parameters, and with a quarter of them. Every method is trained with every learning rate (the first is the default
one) and every seed, and judged by the held-out loss twice: at each rate, and at the rate that is best for it in the
mean over seeds, where none wins by a rate that suits it. The command fails where `rank: auto` is not ahead in at
least four of five seeds at the default rate.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from statistics import mean, pstdev
from typing import Any

from benchmarks.common import MODEL, alpaca_rows, chatterbot_rows, in_process, machine, print_table

METHODS: dict[str, dict[str, Any]] = {
    "uniform 8": {"rank": 8},
    "auto 8": {"rank": "auto"},
    "auto 2": {"rank": "auto", "rank_budget": 2},
}
PAIRS = [("auto 8", "uniform 8"), ("auto 2", "uniform 8")]
"""What is held against what."""
DATA = {"chatterbot": chatterbot_rows, "alpaca": alpaca_rows}
LIMIT, HELD_OUT, STEPS, BATCH = 600, 0.2, 20, 8
LEAST = 0.8
"""Share of seeds in which the first pair must be decided at the first rate."""


def one(method: str, data: str, rate: float, seed: int) -> dict[str, Any]:
    """Train in this process; the held-out loss, and how many parameters were trained."""
    from luthier.adapters.base import count_parameters
    from luthier.config import parse_config
    from luthier.factory import Factory

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            {
                "model": MODEL,
                "data": {
                    "train": [{"path": str(DATA[data]()), "limit": LIMIT}], "held_out": HELD_OUT, "max_length": 512,
                    "over_length": "truncate",
                },
                "adapter": {"type": "lora", **METHODS[method]},
                "train": {
                    "learning_rate": rate, "batch_size": BATCH, "max_steps": STEPS, "evaluate_every": None,
                    "save_every": None, "seed": seed,
                },
                "output": {"dir": folder, "final": "last"},
            }
        )  # fmt: skip
        model, metrics = Factory().fine_tune(config)
        return {"loss": metrics["loss"], "trained": count_parameters(model)[0]}


def verdicts(losses: dict[tuple[str, str], list[float]], rates: list[str]) -> float:
    """Print who is ahead of whom; the share of seeds in which the first pair is decided at the first rate."""
    rows, shares = [], []
    for one, other in PAIRS:
        row = [f"{one} against {other}"]
        best = [min(rates, key=lambda rate: mean(losses[method, rate])) for method in (one, other)]
        for mine, its in [*((rate, rate) for rate in rates), (best[0], best[1])]:
            pairs = list(zip(losses[one, mine], losses[other, its], strict=True))
            ahead = sum(a < b for a, b in pairs)
            shares.append(ahead / len(pairs))
            row.append(f"{ahead} of {len(pairs)} seeds, {mean(a - b for a, b in pairs):+.4f}")
        rows.append(row)
    print()
    print_table(["", *(f"at {rate}" for rate in rates), "each at its best"], rows)
    return shares[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=[*DATA], default="chatterbot")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", default="2e-4,1e-3")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        method, data, rate, seed = given.one
        print(json.dumps(one(method, data, float(rate), int(seed))))
        return
    rates, trained = given.rates.split(","), {}
    losses: dict[tuple[str, str], list[float]] = {case: [] for case in product(METHODS, rates)}

    def run(case: tuple[int, str, str]) -> dict[str, Any]:
        seed, rate, method = case
        found = in_process("benchmarks.ranks", "--one", method, given.data, rate, str(seed))
        print(f"seed {seed}, {rate}, {method}: {found['loss']:.4f}", file=sys.stderr, flush=True)
        return found

    DATA[given.data]()  # downloaded once, before there are several
    cases = list(product(range(given.seeds), rates, METHODS))
    with ThreadPoolExecutor(given.jobs) as pool:
        for (_, rate, method), found in zip(cases, pool.map(run, cases), strict=True):
            losses[method, rate].append(found["loss"])
            trained[method] = found["trained"]
    print(f"\n{machine()}; {given.data}, {STEPS} steps of {BATCH} rows; held-out loss, mean (spread) over seeds\n")
    print_table(
        ["method", "parameters", *(f"at {rate}" for rate in rates)],
        [
            [m, f"{trained[m]:,}", *(f"{mean(losses[m, r]):.4f} ({pstdev(losses[m, r]):.4f})" for r in rates)]
            for m in METHODS
        ],
    )
    if verdicts(losses, rates) < LEAST:
        raise SystemExit("not better than one rank for all")


if __name__ == "__main__":
    main()
