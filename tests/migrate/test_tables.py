"""The tables: every key of the tools stands in them, and what they write is a key of ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from luthier.migrate.base import Entry, rule, table
from luthier.migrate.tools import METHODS, TOOLS
from tests.house.test_keys import SNAPSHOT

KEYS = Path(__file__).parent / "keys"
PARTS = ("adapter", "objective", "train.optimizer")


def fields(kind: type[Any]) -> set[str]:
    """The options of a dataclass of arguments."""
    return {field.name for field in dataclasses.fields(kind) if field.init}


def entries(tool: str) -> list[tuple[str, Entry]]:
    """What becomes of every key, case by case."""
    return [(key, one) for key, entry in table(tool).entries.items() for one in (entry, *entry.cases)]


def test_every_key_of_llamafactory() -> None:
    """The fields of its dataclasses of arguments in 0.9.5, on record since it is no dependency."""
    recorded = (KEYS / "llamafactory.txt").read_text(encoding="utf-8").split()
    assert len(recorded) == 241 and set(recorded) <= set(table("llamafactory").keys)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_key_of_the_trainer_of_transformers(tool: str) -> None:
    from transformers import Seq2SeqTrainingArguments

    chosen = table(tool)
    assert fields(Seq2SeqTrainingArguments) - set(chosen.renames.values()) <= set(chosen.keys)


def test_every_key_of_trl() -> None:
    trl = pytest.importorskip("trl")
    kinds = [getattr(trl, f"{name}Config") for name in ("SFT", "DPO", "KTO", "Reward", "GRPO", "RLOO", "Model")]
    for kind in [*kinds, trl.ScriptArguments]:
        assert fields(kind) <= set(table("trl").keys), kind
    assert set(METHODS) == set(table("trl").words["rates"])
    for method, rate in table("trl").words["rates"].items():
        name = method.upper() if method in ("sft", "dpo", "kto", "grpo", "rloo") else method.capitalize()
        default = next(
            f.default for f in dataclasses.fields(getattr(trl, f"{name}Config")) if f.name == "learning_rate"
        )
        assert rate == default, method


def test_every_common_key_of_axolotl() -> None:
    recorded = (KEYS / "axolotl.txt").read_text(encoding="utf-8").split()
    assert set(recorded) <= set(table("axolotl").keys), sorted(set(recorded) - set(table("axolotl").keys))


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_written_is_a_key_here(tool: str) -> None:
    """Sections with kinds have the key in one of them."""
    known = set(SNAPSHOT.read_text(encoding="utf-8").splitlines())
    for key, entry in entries(tool):
        if entry.to is None:
            continue
        part = next((part for part in PARTS if entry.to.startswith(f"{part}.")), None)
        last = entry.to.rpartition(".")[2]
        assert entry.to in known or any(k.startswith(f"{part}.") and k.endswith(f".{last}") for k in known if part), key


@pytest.mark.parametrize("tool", TOOLS)
def test_every_rule_is_there_and_every_entry_says_one_thing(tool: str) -> None:
    chosen = table(tool)
    known = {*chosen.entries, "objective", "adapter", "adapter_type", "method"}
    for key, entry in entries(tool):
        ways = [entry.rule, entry.to, entry.not_needed, entry.refused, entry.cases]
        assert sum(bool(way) for way in ways) == 1 or (not any(ways) and (entry.changed or entry.see)), key
        assert not entry.rule or callable(rule(entry.rule, tool)), key
        assert not entry.cases or not entry.cases[-1].where, f"{key}: the last case must always hold"
        assert known >= entry.when.keys() | entry.where.keys(), key
    assert set(chosen.defaults) <= set(chosen.entries)


def test_templates_are_named_once() -> None:
    for tool in ("llamafactory", "axolotl"):
        words = table(tool).words
        names = [name for group in words["marks"].values() for name in group]
        assert len(names) == len(set(names)) and not set(names) & set(words["bare"])
        assert set(words.get("thinking", ())) <= set(names)
