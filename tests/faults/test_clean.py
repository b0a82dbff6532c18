"""Runs in which nothing is wrong raise no alarm, whatever they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.factory import Factory, Stages
from tests.conftest import CHATML, chat_rows
from tests.faults.planting import Make
from tests.objectives.conftest import pair_rows, prompt_rows
from tests.train.conftest import problems, turns

BRIEF = "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}" + CHATML
PROMPTED = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(12)]
LABELLED = [row | {"label": i % 3 > 0} for i, row in enumerate(PROMPTED)]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": f"It is {i}."}]} for i in range(12)
]
ALPACA = [{"instruction": f"Add {i}.", "input": "1", "output": f"{i + 1}"} for i in range(12)]
SEVERAL = [turns(f"{i}?", "One.", "And?", "Two.", "Really?", f"{i}.") for i in range(12)]
TEXTS = [{"text": f"Chapter {i}. It rains. " * 3} for i in range(12)]
LONG = [turns(f"{i}?", "On and on. " * 30) for i in range(12)]
REGEX = {"type": "grpo", "rewards": [{"type": "regex", "pattern": "x"}], "max_new_tokens": 4, "samples": 2}
PISSA = {"type": "lora", "init_lora_weights": "pissa", "dropout": 0.1}
CLEAN: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (chat_rows(12), {}),
    "padded": (chat_rows(12), {"data__packing": False, "train__micro_batch_size": 2}),
    "several turns": (SEVERAL, {}),
    "another template": (chat_rows(12), {"model__chat_template": BRIEF}),
    "sharegpt": (SHAREGPT, {}),
    "alpaca": (ALPACA, {"data__packing": False}),
    "prompt and completion": (PROMPTED, {"objective": {"type": "sft", "neftune_noise_alpha": 5}}),
    "texts": (TEXTS, {"objective": "pretrain"}),
    "full": (chat_rows(12), {"adapter": "full", "train__learning_rate": 1e-5}),
    "freeze": (chat_rows(12), {"adapter": {"type": "freeze", "last_layers": 1}, "train__learning_rate": 1e-5}),
    "dora and dropout": (SEVERAL, {"adapter": {"type": "lora", "use_dora": True, "dropout": 0.2}}),
    "pissa": (chat_rows(12), {"adapter": PISSA, "train__gradient_checkpointing": True}),
    "bottleneck": (chat_rows(12), {"adapter": {"type": "bottleneck", "bottleneck_size": 8}}),
    "prefix": (chat_rows(12), {"adapter": {"type": "prefix", "num_virtual_tokens": 3}, "train__learning_rate": 1e-2}),
    "ia3": (ALPACA, {"adapter": "ia3"}),
    "dpo": (pair_rows(12), {"objective": "dpo"}),
    "dpo padded": (pair_rows(12), {"objective": "dpo", "data__packing": False, "adapter": PISSA}),
    "kto": (LABELLED, {"objective": "kto"}),
    "orpo": (pair_rows(12), {"objective": "orpo", "adapter": {"type": "oft"}}),
    "reward": (pair_rows(12), {"objective": "reward"}),
    "grpo": (prompt_rows(12), {"objective": REGEX, "train__batch_size": 4}),
    "ppo": (prompt_rows(12), {"objective": REGEX | {"type": "ppo"}, "train__batch_size": 4}),
    "split": (LONG, {"data__over_length": "split", "data__max_length": 90}),
    "truncated": (LONG, {"data__over_length": "truncate", "data__max_length": 90}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLEAN)
def test_no_alarm(run_config: Make, tmp_path: Path, kind: str) -> None:
    """Neither in the check nor in a run of two steps."""
    rows, overrides = CLEAN[kind]
    if "model__chat_template" in overrides:
        (tmp_path / "brief.jinja").write_text(overrides["model__chat_template"])
        overrides = overrides | {"model__chat_template": str(tmp_path / "brief.jinja")}
    config = run_config(rows, **{"train__max_steps": 2} | overrides)
    ready = Factory().check(config)
    assert problems(ready.report.findings) == []
    said = []

    class Listen(Stages):
        def stage(self, text: str) -> None:
            said.append(text)

    luthier.Factory().fine_tune(config, stages=Listen())
    assert not [text for text in said if "warning" in text]


def test_there_are_enough() -> None:
    assert len(CLEAN) >= 20
