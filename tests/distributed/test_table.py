"""What goes together, as docs/distributed.md says it: `python -m tests.distributed.test_table` writes it there.

It is asked of the strategies themselves, which refuse what does not go, and of the cases that are held against one
process (`tests/invariance/cases.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from luthier.config import parse_config
from luthier.distributed.strategy import StrategySettings
from luthier.errors import MissingExtra, UserError
from luthier.plugins import BUILT_IN
from luthier.train.optim.base import OptimizerSettings
from tests.invariance.cases import CASES, EVERY_PAIR, MAIN, STRATEGIES, kind_of

DOC = Path(__file__).parents[2] / "docs" / "distributed.md"
BEGIN, END = "<!-- made by tests/distributed/test_table.py -->\n", "<!-- until here -->\n"
PARTS = {"adapter": BUILT_IN["adapter"], "objective": BUILT_IN["objective"], "optimizer": BUILT_IN["optimizer"]}
NAMES = ["ddp", "fsdp", "tensor", "pipeline", "sequence", "deepspeed"]
REWARDS = [{"type": "regex", "pattern": "x"}]
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "freeze": {"last_layers": 1},
    "distill": {"teacher": "t"},
    **{kind: {"rewards": REWARDS} for kind in ("grpo", "rloo", "ppo")},
}
"""Settings without which a kind cannot be asked for."""
FULL = ("galore", "apollo", "badam")
"""Optimizers of whole matrices."""
SAID = {"equal": "yes", "allowed": "(yes)", "refused": ""}


def goes(strategy: str, part: str, kind: str) -> bool:
    """Whether a strategy takes it."""
    own = {"type": kind, **NEEDED.get(kind, {})}
    adapter = own if part == "adapter" else "full" if kind in FULL else "lora"
    train = {"optimizer": own, "schedule": "constant"} if part == "optimizer" else {}
    objective = own if part == "objective" else "sft"
    config = parse_config(
        {
            "model": "m", "data": {"train": ["rows.jsonl"]}, "adapter": adapter, "objective": objective, "train": train,
            "parallel": {"type": strategy}, "output": {"dir": "out"},
        }
    )  # fmt: skip
    try:
        with patch.dict(os.environ, WORLD_SIZE="2"):
            cast(StrategySettings, config.parallel).require(config)
            cast(OptimizerSettings, config.train.optimizer).require(config)
    except MissingExtra:  # which is looked for last
        return True
    except UserError:
        return False
    return True


def proven() -> set[tuple[str, str, str]]:
    """Strategies and kinds of parts of which there is a case."""
    tried = {case: set(names) for case, names in EVERY_PAIR.items()} | {case: set(STRATEGIES) for case in MAIN}
    found = set()
    for case, names in tried.items():
        _, adapter, objective, _, train = CASES[case]
        parts = {"adapter": adapter, "objective": objective, "optimizer": train.get("optimizer", "adamw")}
        kinds = {STRATEGIES[name]["type"] for name in names}
        found |= {(kind, part, kind_of(value)) for kind in kinds for part, value in parts.items()}
    return found


def table() -> dict[tuple[str, str, str], str]:
    """What each strategy says of each kind, and whether it was held against one process."""
    equal, found = proven(), {}
    for part, kinds in PARTS.items():
        for kind in kinds:
            for name in NAMES:
                allowed = goes(name, part, kind)
                found[name, part, kind] = (
                    "equal" if (name, part, kind) in equal else "allowed" if allowed else "refused"
                )
    return found


def written() -> str:
    """As Markdown."""
    found = table()
    lines = [f"| | {' | '.join(f'`{name}`' for name in NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for part, kinds in PARTS.items():
        lines.append(f"| **{part}** |" + " |" * len(NAMES))
        lines += [f"| {kind} | {' | '.join(SAID[found[name, part, kind]] for name in NAMES)} |" for kind in kinds]
    return "\n".join(lines) + "\n"


def test_what_is_proven_is_not_refused() -> None:
    refused = [one for one in proven() if one[1] in PARTS and one[2] in PARTS[one[1]] and not goes(*one)]
    assert refused == []


def test_all_that_is_allowed_is_proven() -> None:
    """Each pair has a case that is held against one process."""
    assert [one for one, said in table().items() if said == "allowed"] == []


def test_the_page_says_so() -> None:
    _, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
    assert rest.partition(END)[0] == written(), "write it anew: python -m tests.distributed.test_table"


if __name__ == "__main__":
    before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
    DOC.write_text(before + BEGIN + written() + END + rest.partition(END)[2], encoding="utf-8")
