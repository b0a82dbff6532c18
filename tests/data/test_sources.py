"""What a config names as data: files, folders, patterns, standard input, the hub, and columns under other names."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.config import SourceConfig
from luthier.data.conversation import Origin, Row
from luthier.data.files.base import How
from luthier.data.sources import files_of, rows_of, with_columns
from luthier.errors import DataError


def source(path: object, **settings: Any) -> SourceConfig:
    return SourceConfig(path=str(path), **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/two.csv", "one.jsonl", "b/c/three.json.gz", "README.md", ".hidden.json", ".git/x.json", "x.bin",
                 "LICENSE.txt", "dataset_info.json", "notes.md"):  # fmt: skip
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_text("{}")
    return tmp_path / "rows"


def test_a_folder_gives_its_files_in_order(folder: Path) -> None:
    names = [str(Path(file).relative_to(folder)) for file in files_of(source(folder))]
    assert names == ["b/c/three.json.gz", "b/two.csv", "notes.md", "one.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.jsonl", ["one.jsonl"]), ("b/*", ["b/two.csv"]), ("**/*.json", [".git/x.json", ".hidden.json",
     "dataset_info.json"]), ("[no]*.*", ["notes.md", "one.jsonl"])],
)  # fmt: skip
def test_a_pattern(folder: Path, pattern: str, names: list[str]) -> None:
    assert files_of(source(folder / pattern)) == [str(folder / name) for name in names]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].json").write_text("{}")
    assert files_of(source(tmp_path / "a[1].json")) == [str(tmp_path / "a[1].json")]


@pytest.mark.parametrize("pattern", ["none/*.json", "*.parquet", "empty"])
def test_nothing_there(folder: Path, pattern: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file of rows there; allowed: \.json, "):
        files_of(source(folder / pattern))


@pytest.mark.parametrize("pattern", ["", "*.json", "**/*.json"])
def test_a_link_out_of_the_folder(folder: Path, pattern: str) -> None:
    (folder.parent / "secret.json").write_text("{}")
    (folder / "inner.json").symlink_to(folder / "one.jsonl")  # a link inside is fine
    assert str(folder / "inner.json") in files_of(source(folder / pattern))
    (folder / "rows.json").symlink_to(folder.parent / "secret.json")
    with pytest.raises(DataError, match=r"rows.json: a link out of .*rows; name the file it leads to"):
        files_of(source(folder / pattern))


def test_a_linked_folder_is_not_entered(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "secret.json").write_text("{}")
    (folder / "linked").symlink_to(folder.parent / "other")
    (folder / "around").symlink_to(folder)
    assert len(files_of(source(folder))) == 4


def test_a_limit_is_one_of_rows_before_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": 1}\n{"q": 2}\nbroken')
    found = rows_of(source(tmp_path / "a.jsonl", columns={"text": "q"}), str(tmp_path / "a.jsonl"), How(), limit=2)
    assert [row.value for row in found] == [{"text": 1}, {"text": 2}]


@pytest.mark.parametrize(
    ("piped", "rows"),
    [(b'\n{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]), (b"[1]", [1]), (b"one\ntwo\n", ["one", "two"])],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, piped: bytes, rows: list[object]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    found = list(rows_of(source("-"), "-", How()))
    assert [row.value for row in found] == rows
    assert found[0].origin.file == "<stdin>"


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(*given: Any, **options: Any) -> list[dict[str, int]]:
        asked.append((given, options))
        return [{"a": 1}, {"a": 2}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    named = source("hub:owner/name", subset="en", split="test")
    assert files_of(named) == ["hub:owner/name"]
    rows = list(rows_of(named, "hub:owner/name", How(), limit=1))
    assert [(str(row.origin), row.value) for row in rows] == [("hub:owner/name:1", {"a": 1})]
    assert asked == [(("owner/name", "en"), {"split": "test", "streaming": True})]


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*given: Any, **options: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="hub:owner/name: cannot be read: offline"):
        list(rows_of(source("hub:owner/name"), "hub:owner/name", How()))


def test_columns_are_read_under_the_names_of_the_layout() -> None:
    """And nothing else, so that a column that is not named cannot change what a row is."""
    rows = [
        Row(Origin("f", 1), {"q": "a", "a": "b", "system": "c"}),
        Row(Origin("f", 2), {"q": "d"}),
        Row(Origin("f", 3), "x"),
    ]
    found = list(with_columns(iter(rows), {"instruction": "q", "output": "a"}, "f"))
    assert [row.value for row in found] == [{"instruction": "a", "output": "b"}, {"instruction": "d"}, "x"]
    assert [row.origin for row in found] == [row.origin for row in rows]
    assert list(with_columns(iter(rows[:1]), {"instruction": "q", "input": "input"}, "f"))  # need not be there
    with pytest.raises(DataError, match=r"^f: columns: output: no row has the key 'answer'; allowed: a, q, system$"):
        list(with_columns(iter(rows), {"output": "answer"}, "f"))
