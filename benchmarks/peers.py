"""Training beside every peer, on the same rows: `python -m benchmarks.peers [--steps 6] [--threads 1] [--only NAME]`.

Builds an environment for each peer under Luthier's folder (torch is shared, the rest is its own), then runs the
contenders in turn, `--rounds` times, each in a process of its own, with one allocator and one number of threads; the
best round of each counts. Writes `peers.md`, a table, and `peers.png`, what each technique of Luthier adds.

The floor is the arithmetic that the rows need: 4 FLOP for each weight of the layers and token, and for each of the head
and supervised token, at the rate of a product of 2048 x 2048 matrices, measured between the contenders.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import MODEL, alpaca_rows, machine
from benchmarks.speed import BATCH, ROWS, examples_in_order
from luthier.system.home import home

RUNS = Path(__file__).with_name("peer_runs.py")
RUNG = "Luthier, "


class Contender(NamedTuple):
    """A line of the table: which function of `peer_runs`, in which environment, with what besides."""

    name: str
    run: str
    environment: str | None = None
    settings: dict[str, Any] | None = None


PACKAGES = {
    "trl": (["trl==1.16.0"], []),
    "llamafactory": (
        ["transformers==5.6.*", "peft==0.18.1", "trl==0.24.0", "av", "einops", "fire", "omegaconf", "tyro", "tiktoken"],
        ["llamafactory==0.9.5"],
    ),
}
"""What each environment has of its own, with and without what it asks for (llamafactory asks for torchvision)."""
CONTENDERS = [
    Contender("Trainer + peft, padded", "trainer"),
    Contender("TRL SFT", "trl", "trl", {"packing": False}),
    Contender("TRL SFT, packing", "trl", "trl", {"packing": True}),
    Contender("LLaMA-Factory", "llamafactory", "llamafactory", {"packing": False}),
    Contender("LLaMA-Factory, neat_packing, no checkpointing", "llamafactory", "llamafactory", {"packing": True}),
    Contender(f"{RUNG}plain", "luthier", None, {"kernels": "plain"}),
    Contender(f"{RUNG}+ LoRA as one (no compiler)", "luthier", None, {"kernels": ["lora"]}),
    Contender(f"{RUNG}+ norms", "luthier", None, {"kernels": ["lora", "norm"]}),
    Contender(f"{RUNG}+ gated activations", "luthier", None, {"kernels": ["lora", "norm", "gated"]}),
    Contender(f"{RUNG}+ attention in tiles (auto)", "luthier", None, {"kernels": "auto"}),
]


def environment(name: str | None) -> str:
    """The interpreter of an environment, built once; None: this one."""
    if name is None:
        return sys.executable
    folder = home() / "peers" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "shared.pth").write_text("\n".join(site.getsitepackages()))  # behind its own packages
        wanted, bare = PACKAGES[name]
        install = [str(python), "-m", "pip", "install", "--quiet"]
        for packages in (wanted, ["--no-deps", *bare] if bare else []):
            if packages:
                subprocess.run([*install, *packages], check=True)
        if name == "llamafactory":
            (own / "torchaudio.py").touch()  # which it imports and does not use for text
        (folder / "ready").touch()
    return str(python)


def run(contender: Contender, job: dict[str, Any], threads: int) -> dict[str, Any]:
    """What a contender did, or why it did not."""
    allocator = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(allocator)}
    kept |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    if contender.environment is not None:
        kept.pop("PYTHONPATH", None)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(job | (contender.settings or {}), file)
        file.flush()
        # -P: files beside the script have names of libraries
        command = [environment(contender.environment), "-P", str(RUNS), contender.run, file.name]
        result = subprocess.run(command, check=False, env=kept, capture_output=True, text=True)
    if result.returncode:
        return {"failed": (result.stderr.strip().splitlines() or ["?"])[-1]}
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def make_job(steps: int, batch: int) -> tuple[dict[str, Any], float]:
    """What all contenders are given, and the FLOP for each supervised token of it."""
    from luthier.config import ModelConfig
    from luthier.models.catalogue import entries
    from luthier.models.load import ModelLoader

    examples = examples_in_order(steps)[: steps * batch]
    rows = [
        {
            "input_ids": s.ids.tolist(),
            "labels": [int(i) if w else -100 for i, w in zip(s.ids, s.weights, strict=True)],
        }
        for example in examples
        for s in example.sequences
    ]
    written = home() / "benchmarks" / f"alpaca_first_{ROWS}.json"
    written.write_text(json.dumps(json.loads(alpaca_rows().read_text(encoding="utf-8"))[:ROWS]), encoding="utf-8")
    model = ModelLoader().load(ModelConfig(path=MODEL))
    head = model.get_output_embeddings().weight.numel()
    layers = sum(weight.numel() for weight in model.parameters()) - head  # its embeddings are its head
    tokens, supervised = (sum(getattr(e, name) for e in examples) for name in ("tokens", "supervised"))
    job = {"model": str(entries()[MODEL].folder), "rows": rows, "written": str(written), "steps": steps, "batch": batch}
    return job, (4 * layers * tokens + 4 * head * supervised) / supervised


def report(found: dict[str, dict[str, Any]], floor: float, title: str, folder: Path) -> None:
    """The table, and the ladder."""
    from matplotlib.figure import Figure

    lines = [title, "", f"Floor: {floor:.0f} supervised tokens/s.", ""]
    lines += ["| contender | s/step | supervised tokens/s | of the floor | peak GB |", "|---|---|---|---|---|"]
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed']} | | | |")
            continue
        speed = one["tokens_per_second"]
        lines.append(
            f"| {name} | {one['seconds_per_step']:.2f} | {speed:.1f} | {speed / floor:.0%} | {one['peak_gb']:.2f} |"
        )
    (folder / "peers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    done = {name: one["tokens_per_second"] for name, one in found.items() if "failed" not in one}
    figure = Figure(figsize=(9, 0.45 * len(done) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([*done], [*done.values()], color=["#3b6ea5" if n.startswith(RUNG) else "#b0b0b0" for n in done])
    axes.bar_label(bars, [f"{value / floor:.0%}" for value in done.values()], padding=3)
    axes.axvline(floor, color="black", linestyle=":", label="floor")
    axes.invert_yaxis()
    axes.set_xlabel("supervised tokens/s")
    axes.legend(loc="lower right")
    figure.savefig(folder / "peers.png", dpi=120)


def main() -> None:
    """Run the contenders and write what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", help="contenders whose names begin so")
    parser.add_argument("--output", type=Path, default=Path())
    options = parser.parse_args()
    job, each = make_job(options.steps, options.batch)
    chosen = [c for c in CONTENDERS if not options.only or c.name.startswith(tuple(options.only))]
    found: dict[str, dict[str, Any]] = {}
    rate = 0.0
    for _ in range(options.rounds):
        for contender in chosen:
            rate = max(rate, run(Contender("", "gemm"), job, options.threads)["rate"])
            one = run(contender, job, options.threads)
            print(f"{contender.name}: {one}", file=sys.stderr, flush=True)
            best = found.get(contender.name, one)
            if "failed" in best or one.get("tokens_per_second", 0) >= best["tokens_per_second"]:
                found[contender.name] = one
    size = f"{options.threads} threads, {options.steps} steps of {options.batch} rows"
    title = f"{machine()}; {size}; products at {rate / 1e9:.0f} GFLOP/s."
    report(found, rate / each, title, options.output)


if __name__ == "__main__":
    main()
