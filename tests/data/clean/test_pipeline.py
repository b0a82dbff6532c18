"""Rows through cleaners: in order, whole, the same with workers as without; and what is written about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from luthier.config import SourceConfig
from luthier.data.clean.duplicates import Duplicates
from luthier.data.clean.ledger import restored
from luthier.data.clean.near import NearDuplicates
from luthier.data.clean.quality import Quality
from luthier.data.clean.redact import Personal
from luthier.data.clean.repair import Repair
from luthier.data.clean.run import clean_source
from luthier.errors import DataError, OutputError
from tests.data.clean.conftest import rules

ALL = [Repair(), Personal(), Quality(), Duplicates(), NearDuplicates()]
VALUES: list[Any] = [
    {"prompt": f"What is row {n}?", "completion": f"It is number {n}, and {n * 7919} besides."} for n in range(300)
]
VALUES[10:10] = [
    VALUES[3],
    {"prompt": "a", "completion": "x"},
    {"prompt": "b"},
    {"prompt": "<script>", "completion": "cafÃ© a@b.example"},
]


def test_the_first_word_counts_and_the_rest_do_not_see_the_row(cleaned: Any) -> None:
    """A row that went is no row that a later one repeats."""
    rows = [("q", "As an AI, no."), ("q", "Yes.")]
    assert rules(cleaned([Quality(), Duplicates()], *rows, rows[0])) == ["refusal", "", "refusal"]


class Slow(Quality):
    """A cleaner that only sees what others keep."""

    heavy: ClassVar[bool] = True


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_behind_a_heavy_cleaner_mends_too(cleaned: Any, order: tuple[int, int]) -> None:
    cleaners = [Slow(), Personal()]
    (one,) = cleaned([cleaners[i] for i in order], ("Who are you?", "Write to a@b.example, and to no one else."))
    assert one.value["completion"] == "Write to [EMAIL], and to no one else." and one.mended == ("personal",)
    assert "[EMAIL]" in one.content.messages[-1].content and one.content_id != one.content.content_id


def test_a_batch_of_unusable_rows_goes_through(cleaned: Any) -> None:
    assert set(rules(cleaned([NearDuplicates(), Slow()], *[{"prompt": "b"}] * 300))) == {"wrong-layout"}


def test_every_row_has_one_outcome_in_its_place(cleaned: Any) -> None:
    found = cleaned(ALL, *VALUES)
    assert [outcome.row.origin.line for outcome in found] == list(range(1, len(VALUES) + 1))
    assert [(n, rule) for n, rule in enumerate(rules(found)) if rule] == [
        (10, "duplicate"),
        (11, "too-short"),
        (12, "wrong-layout"),
    ]
    assert found[13].value == {"prompt": "<script>", "completion": "café [EMAIL]"}
    assert found[13].mended == ("repair", "personal")


@pytest.mark.slow
def test_workers_change_nothing(cleaned: Any) -> None:
    assert cleaned(ALL, *VALUES, *VALUES, workers=2) == cleaned(ALL, *VALUES, *VALUES)


def test_no_cleaner_reads_rows(cleaned: Any) -> None:
    assert rules(cleaned([], ("a", "b"), {"c": 1})) == ["", "wrong-layout"]


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in VALUES))
    return SourceConfig(path=str(path))


def test_what_is_written(source: SourceConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cleaned"
    tally = clean_source(source, ALL, str(folder))
    assert (tally.read, tally.kept, dict(tally.dropped)) == (
        304,
        301,
        {"duplicate": 1, "too-short": 1, "wrong-layout": 1},
    )
    assert sorted(file.name for file in folder.iterdir()) == [
        "dropped.jsonl",
        "ledger.jsonl",
        "report.html",
        "report.md",
        "rows.jsonl",
    ]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 301 and rows[:10] == VALUES[:10]
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry.get("rule"), entry.get("mended")) for entry in ledger] == [
        (11, "duplicate", None), (12, "too-short", None), (13, "wrong-layout", None), (14, None, ["repair", "personal"])
    ]  # fmt: skip
    assert ledger[0]["detail"] == f"says what {source.path}:4 says" and ledger[1]["threshold"] == 2
    report = (folder / "report.md").read_text()
    assert (
        "301 of 304 rows kept" in report
        and "## too-short" in report
        and '`{"prompt": "a", "completion": "x"}`' in report
    )
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "default-src 'none'" in page
    again = clean_source(SourceConfig(path=str(folder)), ALL, None)  # the folder itself can be read
    assert (again.read, again.kept) == (301, 301)


def test_rows_can_be_put_back(source: SourceConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cleaned"
    clean_source(source, ALL, str(folder))
    with pytest.raises(
        DataError, match=r"the rule 'echo' dropped nothing; there are: duplicate, too-short, wrong-layout"
    ):
        restored(folder, ["echo"])
    assert restored(folder, ["too-short", "wrong-layout"]) == 2
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert rows[-2:] == [{"prompt": "a", "completion": "x"}, {"prompt": "b"}]
    assert len((folder / "dropped.jsonl").read_text().splitlines()) == 1
    with pytest.raises(DataError, match="not a folder that"):
        restored(tmp_path, ["echo"])


def test_nothing_of_somebody_else_is_removed(source: SourceConfig, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for output, said in ((folder, "holds thesis.txt"), (folder / "thesis.txt", "holds thesis.txt")):
        with pytest.raises(OutputError, match=rf"{said}, which `luthier data clean` did not write"):
            clean_source(source, ALL, str(output))
    assert (folder / "thesis.txt").read_text() == "years of work"
    done = tmp_path / "done"
    clean_source(source, ALL, str(done))
    before = {file.name: file.read_bytes() for file in done.iterdir()}
    with pytest.raises(OutputError, match="is read from there, and would be replaced"):
        clean_source(SourceConfig(path=str(done)), ALL, str(done))
    (done / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes.txt"):
        clean_source(source, ALL, str(done))
    assert {name: (done / name).read_bytes() for name in before} == before
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "fine"}\n{"prompt"')
    with pytest.raises(DataError, match="not valid JSON"):
        clean_source(source, ALL, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".incomplete*"))


def test_no_secret_comes_back(tmp_path: Path) -> None:
    """Neither what is kept aside nor what is put back holds what was replaced."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Mail?", "completion": "As an AI, mail a@b.example."}))
    clean_source(SourceConfig(path=str(tmp_path / "rows.jsonl")), [Personal(), Quality()], str(tmp_path / "out"))
    restored(tmp_path / "out", ["refusal"])
    assert json.loads((tmp_path / "out" / "rows.jsonl").read_text())["completion"] == "As an AI, mail [EMAIL]."
    assert not any("a@b.example" in file.read_text() for file in (tmp_path / "out").iterdir())


def test_somebody_may_watch(tmp_path: Path) -> None:
    path, seen = tmp_path / "rows.jsonl", list[int]()
    path.write_text("".join(json.dumps(value) + "\n" for value in VALUES))
    clean_source(SourceConfig(path=str(path)), [Quality()], str(tmp_path / "out"), watch=seen.append)
    assert seen == [100, 200, 300]
