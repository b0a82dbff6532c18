"""Every strategy learns what one process learns, and goes on from what another has saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.parallel import MOST, apart, together
from tests.conftest import build_model, chat_rows
from tests.invariance.cases import (
    CASES,
    CHAINS,
    COMBINED,
    FACTORS,
    INSTALLED,
    MAIN,
    ROWS,
    STRATEGIES,
    TOGETHER,
    kind_of,
)
from tests.objectives.conftest import labelled_rows, pair_rows, prompt_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Home:
    """A folder with models and rows, in which runs are trained."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        self.folder = folder
        llama = build_model(len(tokenizer), num_hidden_layers=4)
        shape = {key: getattr(llama.config, key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
        shape |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        half = build_model(len(tokenizer), num_hidden_layers=4).bfloat16()
        for name, model in {"llama": llama, "half": half, "qwen3": Qwen3ForCausalLM(Qwen3Config(**shape))}.items():
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        for name, rows in {
            "sft": chat_rows(24),
            "dpo": pair_rows(24),
            "kto": labelled_rows(24),
            "grpo": prompt_rows(24),
        }.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def config(self, case: str, name: str, parallel: Mapping[str, Any] | None) -> str:
        """Writes the config of a run, and returns its file."""
        model, adapter, objective, data, train = CASES[case]
        if isinstance(objective, dict) and "teacher" in objective:
            objective = {**objective, "teacher": str(self.folder / objective["teacher"])}
        rows = ROWS.get(kind_of(objective), "sft")
        tree = {
            "model": str(self.folder / model),
            "data": {"train": [str(self.folder / f"{rows}.jsonl")], "held_out": 0.2, "cache": False, **data},
            "adapter": adapter,
            "objective": objective,
            "train": {"batch_size": 6, "max_steps": 6, "epochs": 9, "evaluate_every": "3 steps", **train},
            "parallel": dict(parallel or {"type": "auto"}),
            "output": {"dir": str(self.run(case, name)), "final": "last"},
        }
        file = self.folder / f"{name}-{case}.json"
        file.write_text(json.dumps(tree), encoding="utf-8")
        return str(file)

    def run(self, case: str, name: str) -> Path:
        """Where a run is."""
        return self.folder / f"{name}-{case}.run"

    def require_equal(self, case: str, name: str) -> None:
        """A run is that of one process."""
        refused = self.folder / f"{name}-{case}.refused"
        assert not refused.exists(), refused.read_text()
        far = apart(self.run(case, "one"), self.run(case, name))
        assert all(far[key] <= MOST[key] for key in MOST), far


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Home:
    """With the runs of one process."""
    home = Home(tmp_path_factory.mktemp("home"), tokenizer)
    needed = {*MAIN, *TOGETHER, *FACTORS}
    together(1, [home.config(case, "one", None) for case in CASES if case in needed])
    return home


@pytest.fixture(scope="module")
def two(home: Home) -> Home:
    """With the runs of two processes."""
    chosen = [(case, name) for name in INSTALLED for case in MAIN]
    chosen += [(case, name) for case, names in TOGETHER.items() for name in names if name in INSTALLED]
    together(2, [home.config(case, name, STRATEGIES[name]) for case, name in chosen])
    return home


@pytest.fixture(scope="module")
def factored(home: Home) -> Home:
    """With one step, cut in every way, of one, two and three processes."""
    for ranks in (2, 3):
        together(ranks, [home.config(cut, f"{ranks} processes", {"type": "ddp"}) for cut in FACTORS])
    return home


@pytest.fixture(scope="module")
def four(home: Home) -> Home:
    """With the runs of four processes."""
    together(4, [home.config(case, name, strategy) for name, strategy in COMBINED.items() for case in MAIN])
    return home


@pytest.fixture(scope="module")
def chained(home: Home) -> Home:
    """With runs that have changed hands."""
    for turn in range(3):
        for ranks in (1, 2):
            entries = []
            for name, chain in CHAINS.items():
                if turn < len(chain) and (chain[turn] is None) == (ranks == 1):
                    until = f"@{2 * turn + 2}" if turn < len(chain) - 1 else ""
                    entries += [home.config(case, name, chain[turn]) + until for case in MAIN]
            if entries:
                together(ranks, entries)
    return home


@pytest.mark.parametrize("case", MAIN)
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_equal_one(two: Home, name: str, case: str) -> None:
    """Losses, held-out losses, gradient norms, and the weights that are kept."""
    two.require_equal(case, name)


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, names in TOGETHER.items() for name in names if name in INSTALLED]
)
def test_what_else_goes_together(two: Home, name: str, case: str) -> None:
    """Adapters, optimizers and objectives."""
    two.require_equal(case, name)


@pytest.mark.parametrize("cut", FACTORS)
@pytest.mark.parametrize("name", ["one", "2 processes", "3 processes"])
def test_a_step_has_one_gradient(factored: Home, name: str, cut: str) -> None:
    """However its rows are shared out by micro-batches and processes."""
    whole, other = (gradients(factored.run(case, who)) for case, who in (("padded 6", "one"), (cut, name)))
    apart = sum(float((other[key] - whole[key]).square().sum()) for key in whole)
    assert apart <= 1e-12 * sum(float(value.square().sum()) for value in whole.values())


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """Of the first step, which AdamW's first mean is a tenth of."""
    memory = load_file(run / "checkpoint-1" / "optimizer.safetensors")
    return {name: tensor.double() for name, tensor in memory.items() if name.endswith("|exp_avg")}


@pytest.mark.parametrize("case", MAIN)
@pytest.mark.parametrize("name", COMBINED)
def test_four_processes_equal_one(four: Home, name: str, case: str) -> None:
    """Two axes at once."""
    four.require_equal(case, name)


@pytest.mark.parametrize("case", MAIN)
@pytest.mark.parametrize("name", CHAINS)
def test_a_run_changes_hands(chained: Home, name: str, case: str) -> None:
    """Saved under one strategy, gone on with under another, on another number of processes."""
    chained.require_equal(case, name)
    steps = [json.loads(line)["step"] for line in (chained.run(case, name) / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
