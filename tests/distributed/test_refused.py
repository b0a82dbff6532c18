"""What does not go with a strategy is refused by name before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import luthier
from luthier.errors import MissingExtra, UserError

CUT = ("fsdp", "tensor", "pipeline", "sequence")
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((kind, {"adapter": "adalora"}, f"adapter: adalora does not go with parallel: {kind}") for kind in CUT),
    *((kind, {"adapter": "prefix"}, f"adapter: prefix does not go with parallel: {kind}") for kind in CUT),
    *((kind, {"train__optimizer": "muon"}, "train.optimizer: muon does not go with") for kind in CUT),
    *((kind, {"train__optimizer": "galore", "adapter": "full"}, "optimizer: galore does not") for kind in CUT),
    ("tensor", {"adapter": "ia3"}, "it takes lora, full, freeze. Write one of them, or parallel: fsdp"),
    ("tensor", {"adapter": {"type": "lora", "use_dora": True}}, "write adapter.use_dora: false"),
    ("pipeline", {"objective": "reward"}, "parallel: pipeline has no head of one number at its end"),
    ("pipeline", {"evaluate": {"metrics": ["exact_match"]}}, "measure the tuned one with: luthier evaluate"),
    (
        "sequence",
        {"objective": {"type": "distill", "teacher": "x"}},
        "objective: distill does not go with parallel: sequence",
    ),
    (
        "fsdp",
        {"objective": {"type": "grpo", "rewards": [{"type": "regex", "pattern": "x"}]}},
        "objective: grpo does not",
    ),
    ("fsdp", {"train__precision": "fp16"}, "parallel: fsdp trains in bf16 or fp32; write train.precision: auto"),
]


class Unused:
    """Nothing may be loaded."""


@pytest.mark.parametrize(("kind", "overrides", "said"), REFUSED)
def test_refused(run_config: Callable[..., Any], kind: str, overrides: dict[str, Any], said: str) -> None:
    objective = overrides.get("objective")
    config = run_config(**{"parallel": {"type": kind}, **overrides, **({"objective": objective} if objective else {})})
    unused: Any = Unused()
    with pytest.raises(UserError) as found:
        luthier.Factory(models=unused, data=unused).prepare(config)
    assert said in str(found.value)


def test_deepspeed_is_an_extra(run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", None)
    with pytest.raises(MissingExtra, match=r"pip install 'luthier\[deepspeed\]'"):
        luthier.Factory().prepare(run_config(parallel={"type": "deepspeed"}))


def test_weights_that_are_whole_cannot_be_elsewhere(run_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="write stage: 3, or offload: optimizer"):
        luthier.Factory().prepare(run_config(parallel={"type": "deepspeed", "stage": 2, "offload": "all"}))


@pytest.mark.parametrize("kind", CUT)
def test_one_process_is_not_several(run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="start it with: luthier train CONFIG --devices 2"):
        luthier.Factory().fine_tune(run_config(parallel={"type": kind}))
