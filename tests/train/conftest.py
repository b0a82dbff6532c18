"""Planting faults in rows, tokens and models, and reading what the check says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.data.processor import Prepared
from luthier.data.render import Tokens
from luthier.factory import Factory
from luthier.train.check import Finding, Ready, check_data
from tests.conftest import build_model

Make = Callable[..., RunConfig]


def turns(*said: str, **extra: Any) -> dict[str, Any]:
    """A row in which user and assistant take turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)], **extra}


def check(config: RunConfig) -> Ready:
    return Factory().check(config)


def problems(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "note"]


def the_one(findings: Sequence[Finding], level: str, name: str, *parts: str) -> None:
    """There is exactly one problem, and it says all this."""
    (found,) = problems(findings)
    assert (found.level, found.name) == (level, name)
    for part in parts:
        assert part in found.message, (part, found.message)


def planted(config: RunConfig, change: Callable[[Tokens], Tokens], *, at: int = 2) -> list[Finding]:
    """What is found after the tokens of one row were changed."""
    ready = Factory().prepare(config)
    assert not problems(ready.report.findings)
    victim = ready.data.train[at]
    changed = replace(victim, sequences=tuple(change(tokens) for tokens in victim.sequences))
    train = [*ready.data.train[:at], changed, *ready.data.train[at + 1 :]]
    adapter: Any = config.adapter
    data = Prepared(train, ready.data.held_out, ready.data.ledger, ready.data.readings)
    found = check_data(config, data, ready.renderer, adapter).findings
    assert all(f"{victim.origin}: " in f.message for f in problems(found) if f.level == "error")
    return found


@pytest.fixture
def with_tokenizer(tmp_path: Path, run_config: Make) -> Callable[..., RunConfig]:
    """A config whose model has another tokenizer."""

    def make(tokenizer: Any, rows: Any = None, *, vocabulary: int | None = None, **overrides: Any) -> RunConfig:
        folder = tmp_path / "other"
        build_model(vocabulary or len(tokenizer), eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return run_config(rows, model=str(folder), **overrides)

    return make
