"""`dataset_info.json`: what their data sets become, and what is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config import SourceConfig
from luthier.data.conversation import Conversation, Labelled, Preference, Text
from luthier.data.ledger import Ledger
from luthier.migrate.tools import Translation
from tests.data.reading import contents

Make = Callable[..., Translation]


def read(found: Translation) -> list[Any]:
    """The contents of the training rows, as a run reads them."""
    ledger = Ledger()
    sources = [SourceConfig.model_validate(source) for source in found.tree["data"]["train"]]
    rows = contents(sources, ledger)
    assert len(rows) == ledger.rows_read, ledger.reasons()
    return rows


def said(content: Conversation) -> list[tuple[str, str]]:
    """Who says what."""
    return [(turn.role, turn.content) for turn in content.messages]


def test_a_column_that_is_not_named_is_not_read(llamafactory: Make) -> None:
    """`plain` has a key system, which its entry does not name, so that their trainer does not read it."""
    rows = read(llamafactory())
    assert said(rows[1]) == [("user", "Say 1.\nShortly."), ("assistant", "1!")]
    assert said(read(llamafactory(dataset="renamed"))[0]) == [
        ("system", "Be kind."), ("user", "Say 0."), ("assistant", "0!")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "stage", "kind"),
    [
        ("talks", "sft", Conversation),
        ("messages", "sft", Conversation),
        ("pairs", "dpo", Preference),
        ("pairs", "rm", Preference),
        ("verdicts", "kto", Labelled),
        ("texts", "pt", Text),
        ("plain", "ppo", Conversation),
    ],
)
def test_layouts(llamafactory: Make, dataset: str, stage: str, kind: type) -> None:
    rows = read(llamafactory(dataset=dataset, stage=stage, reward_model="judge"))
    assert len(rows) == 16 and all(isinstance(row, kind) for row in rows)
    if kind is Preference:
        assert said(rows[2].chosen) == [("user", "Add 1 to 2."), ("assistant", "3")]
        assert said(rows[2].rejected)[-1] == ("assistant", "2")
    if kind is Labelled:
        assert [row.wanted for row in rows[:3]] == [True, False, True]


def test_columns_of_other_stages_are_not_read(llamafactory: Make, rows: Path) -> None:
    """As their reader has it: pairs only of ranking data sets, and of those no response."""
    columns = {"prompt": "instruction", "response": "output", "chosen": "system", "rejected": "input"}
    info = {"mine": {"file_name": "plain.json", "columns": columns}}
    info["ranked"] = {**info["mine"], "ranking": True}
    (rows / "dataset_info.json").write_text(json.dumps(info))
    found = llamafactory(dataset="mine").tree["data"]["train"][0]
    assert found["format"] == "alpaca" and found["columns"] == {"instruction": "instruction", "output": "output"}
    found = llamafactory(dataset="ranked", stage="dpo").tree["data"]["train"][0]
    assert found["columns"] == {"instruction": "instruction", "chosen": "system", "rejected": "input"}


def test_several_data_sets_and_limits(llamafactory: Make, rows: Path) -> None:
    found = llamafactory(dataset="plain, talks", eval_dataset="renamed", max_samples=3)
    assert [(s["path"], s["limit"]) for s in found.tree["data"]["train"]] == [
        ("data/plain.json", 3), ("data/talks.json", 3)
    ]  # fmt: skip
    assert [s["path"] for s in found.tree["data"]["held_out"]] == ["data/renamed.jsonl"]
    assert len(read(found)) == 6
    info = json.loads((rows / "dataset_info.json").read_text())
    info["plain"]["num_samples"] = 2
    (rows / "dataset_info.json").write_text(json.dumps(info))
    found = llamafactory(max_samples=3)
    assert found.tree["data"]["train"][0]["limit"] == 2
    assert "drawn at random" in next(one.note for one in found.outcome("changed") if one.key == "dataset")


ENTRY: dict[str, Any] = {"file_name": "plain.json"}
TALKS: dict[str, Any] = {"file_name": "talks.json", "formatting": "sharegpt"}


@pytest.mark.parametrize(
    ("entry", "stage", "words"),
    [
        (ENTRY | {"file_name": "nowhere.json"}, "sft", ["data/nowhere.json: no such file (looked at /"]),
        (ENTRY | {"file_name": "dataset_info.csv"}, "sft", ["no such file"]),
        ({"hf_hub_url": "somebody/rows"}, "sft", ["hf_hub_url somebody/rows is not on this machine", "file_name"]),
        ({"script_url": "reader"}, "sft", ["script_url reader is not on this machine"]),
        ({}, "sft", ["has no file_name"]),
        (ENTRY | {"formating": "alpaca"}, "sft", ["unknown key formating", "did you mean 'formatting'"]),
        (ENTRY | {"formatting": "chatml"}, "sft", ["must be alpaca, sharegpt or openai"]),
        (ENTRY | {"split": "test"}, "sft", ["split 'test' belongs to a hub"]),
        (ENTRY | {"columns": {"prompt": "a", "response": "b", "images": "c"}}, "sft", ["has images; only text"]),
        (ENTRY | {"columns": {"promt": "a"}}, "sft", ["columns: unknown promt", "did you mean 'prompt'"]),
        (ENTRY | {"columns": {"prompt": "a"}}, "sft", ["columns must name response"]),
        (ENTRY | {"ranking": True}, "sft", ["is a ranking data set, and stage sft learns from others"]),
        (ENTRY, "dpo", ["is no ranking data set, and stage dpo learns from such"]),
        (ENTRY | {"ranking": True}, "dpo", ["columns must name chosen and rejected"]),
        (ENTRY, "kto", ["has no column kto_tag"]),
        (ENTRY, "pt", ["stage pt reads texts"]),
        (TALKS | {"tags": {"rolle_tag": "from"}}, "sft", ["tags: unknown rolle_tag", "'role_tag'"]),
    ],
)  # fmt: skip
def test_refused_by_name(llamafactory: Make, rows: Path, entry: dict[str, Any], stage: str, words: list[str]) -> None:
    (rows / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    found = llamafactory(dataset="mine", stage=stage)
    line = next(one for one in found.outcome("refused") if one.key == "dataset")
    assert line.note.startswith("mine (data/dataset_info.json): ")
    for word in words:
        assert word in line.note


def test_names_and_folders_that_are_not_there(llamafactory: Make, rows: Path) -> None:
    note = next(one.note for one in llamafactory(dataset="plian").outcome("refused") if one.key == "dataset")
    assert "has no data set 'plian'; did you mean 'plain'?" in note
    note = next(one.note for one in llamafactory(dataset_dir="other").outcome("refused") if one.key == "dataset_dir")
    assert "other/dataset_info.json: no such file" in note
    note = next(one.note for one in llamafactory(dataset_dir="ONLINE").outcome("refused") if one.key == "dataset_dir")
    assert "download it first" in note
    (rows / "dataset_info.json").write_text('{"plain": {}, "plain": {}}')
    note = next(one.note for one in llamafactory().outcome("refused") if one.key == "dataset_dir")
    assert "'plain' is given twice" in note


def test_a_folder_of_files(llamafactory: Make, rows: Path) -> None:
    (rows / "parts").mkdir()
    for name in ("b.json", "a.json"):
        (rows / "parts" / name).write_text((rows / "plain.json").read_text())
    (rows / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "parts"}}))
    found = llamafactory(dataset="mine")
    assert [s["path"] for s in found.tree["data"]["train"]] == ["data/parts"]
    assert len(read(found)) == 32


def test_tags(llamafactory: Make, rows: Path) -> None:
    """Whatever the parts of a turn are called."""
    turns = [{"who": "Patient", "says": "Ow."}, {"who": "Doctor", "says": "Where?"}]
    (rows / "named.json").write_text(json.dumps([{"talk": turns}]))
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "Patient", "assistant_tag": "Doctor"}
    entry = {"file_name": "named.json", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": tags}
    (rows / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert said(read(llamafactory(dataset="mine"))[0]) == [("user", "Ow."), ("assistant", "Where?")]
