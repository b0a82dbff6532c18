"""A `dataset_info.json` of LLaMA-Factory as it stands: `{path: .../dataset_info.json, name: ...}`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.config import SourceConfig
from luthier.data.ledger import Ledger
from luthier.data.sources import resolved
from luthier.errors import DataError
from tests.data.reading import contents

TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
TAGS = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it", "function_tag": "calls"}
TALK = [
    {"who": "me", "says": "Q"},
    {"who": "calls", "says": '{"name": "f", "arguments": {}}'},
    {"who": "it", "says": "A"},
]
SETS: dict[str, Any] = {
    "plain": ({}, {"instruction": "Q", "output": "A"}, "alpaca"),
    "renamed": ({"columns": {"prompt": "q", "response": "a"}}, {"q": "Q", "a": "A", "system": "not read"}, "alpaca"),
    "talk": ({"formatting": "sharegpt"}, {"conversations": TURNS}, "sharegpt"),
    "tagged": ({"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS}, {"talk": TALK}, "sharegpt"),
    "ranked": ({"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
               {"q": "Q", "c": "A", "r": "B"}, "preference"),
    "verdicts": ({"columns": {"prompt": "q", "response": "a", "kto_tag": "good"}}, {"q": "Q", "a": "A", "good": True},
                 "labelled"),
    "texts": ({"columns": {"prompt": "text"}}, {"text": "T"}, "text"),
}  # fmt: skip


@pytest.fixture
def info(tmp_path: Path) -> Path:
    entries = {}
    for name, (entry, row, _) in SETS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps([row] * 3))
        entries[name] = {"file_name": f"{name}.json", **entry}
    entries["hub"] = {"hf_hub_url": "owner/name", "subset": "en", "split": "test", "num_samples": 5}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    return tmp_path / "dataset_info.json"


@pytest.mark.parametrize("name", SETS)
def test_every_kind_of_set(info: Path, name: str) -> None:
    ledger, readings = Ledger(), []
    rows = contents([SourceConfig(path=str(info), name=name, limit=2)], ledger, readings)  # type: ignore[arg-type]
    assert len(rows) == 2 == ledger.rows_read, ledger.reasons()
    assert readings[0].format == SETS[name][2]
    if name == "tagged":
        turns = rows[0].messages  # type: ignore[union-attr]
        assert [(turn.role, turn.content, len(turn.tool_calls)) for turn in turns] == [
            ("user", "Q", 0), ("assistant", "", 1), ("assistant", "A", 0)
        ]  # fmt: skip


def test_what_a_board_starts_reads_its_folder_alone(
    info: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry may name any file of the machine."""
    monkeypatch.setenv("LUTHIER_BOARD", str(tmp_path))
    assert len(contents([SourceConfig(path=str(info), name="plain")])) == 3
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("LUTHIER_BOARD", str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"leads out of .*own, the folder of the board"):
        contents([SourceConfig(path=str(info), name="plain")])


def test_an_answer_that_is_a_list_stays_text(tmp_path: Path) -> None:
    """Only what holds turns is taken apart."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"talk": TALK[::2], "system": '[{"a": 1}]'}]))
    columns, turns = (
        {"conversations": "talk", "system": "system"},
        {"role": "who", "content": "says", "user": "me", "assistant": "it"},
    )
    rows = contents([SourceConfig(path=str(path), columns=columns, turns=turns)])
    assert [turn.content for turn in rows[0].messages] == ['[{"a": 1}]', "Q", "A"]  # type: ignore[union-attr]


def test_a_set_on_the_hub(info: Path) -> None:
    found = resolved(SourceConfig(path=str(info), name="hub", weight=2))
    assert (found.path, found.subset, found.split, found.limit, found.weight) == ("hub:owner/name", "en", "test", 5, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"names data sets; write \{path: .*dataset_info.json, name: plain\}"),
        ({"name": "plian"}, "has no data set 'plian'; did you mean 'plain'"),
        ({"path": "rows.json", "name": "plain"}, "only a dataset_info.json has data sets with names"),
        ({"path": "none/dataset_info.json", "name": "plain"}, "no such file"),
    ],
)
def test_refused(info: Path, settings: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        resolved(SourceConfig(**({"path": str(info)} | settings)))
