"""CSV and TSV into rows: every field as it was written, and one clear error for whatever would shift columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.files.base import How
from luthier.data.sources import read_rows
from luthier.errors import DataError

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip), min_size=2,
                 max_size=4, unique=True)  # fmt: skip
FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def read(folder: Path, content: str | bytes, name: str = "rows.csv") -> list[tuple[int, object]]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(row.origin.line, row.value) for row in read_rows(path)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n3,4\n", [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})]),
        ("a;b\r\n1,5;2\r\n", [(2, {"a": "1,5", "b": "2"})]),
        ("a\tb\n1\t2", [(2, {"a": "1", "b": "2"})]),
        ("a|b\n1|2\n", [(2, {"a": "1", "b": "2"})]),
        ('a,b\n"1\n,""x""",2\n\n3,\n', [(2, {"a": '1\n,"x"', "b": "2"}), (5, {"a": "3", "b": ""})]),
        ("text\nHello\nthere\n", [(2, {"text": "Hello"}), (3, {"text": "there"})]),
        (",b\n0,x\n", [(2, {"column 1": "0", "b": "x"})]),
        ("\ufeffa,b\n 1 ,2\n", [(2, {"a": " 1 ", "b": "2"})]),
        ("question,answer\n" + '"a; b",c\n' * 60, [(n, {"question": "a; b", "answer": "c"}) for n in range(2, 62)]),
        ("a,b\n", []),
    ],
)
def test_rows_and_their_lines(tmp_path: Path, content: str, expected: list[tuple[int, object]]) -> None:
    assert read(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n1,2,3\n", r"csv:3: 3 fields, and the header names 2; a field that holds ',' or a line break"),
        ("a,b\n1\n", r"csv:2: 1 fields"),
        ('a,b\n1,2\n"open,3\n', r"csv:3: not valid CSV"),
        ('a,b\n1,"x"y\n', r"csv:2: not valid CSV"),
        ("a,b\r1,2\r", r"csv:1: not valid CSV"),
        ("a,a\n1,2\n", "csv:1: two columns are called 'a'"),
        ("a,b\n1,\0\n", "csv:2: not a text file"),
        ("the first; one, of two\n1; 2, 3\n", "commas or semicolons may be between columns"),
        ("", "csv: the file is empty"),
        ("\n \n", "csv: the file is empty"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)


def test_a_delimiter_in_a_tsv_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a\tb\n1,2\t3,4\n", "rows.tsv") == [(2, {"a": "1,2", "b": "3,4"})]


def test_the_delimiter_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a;b\n1;2\n")
    how = How()
    list(read_rows(tmp_path / "rows.csv", how=how))
    assert how.found == "semicolons between columns"


def test_a_field_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.files.table.LARGEST_ROW", 1000)
    with pytest.raises(DataError, match="csv:3: a row of more than"):
        read(tmp_path, "a,b\n1,2\n" + '"' + "x\n" * 600 + '",2\n')


@settings(deadline=None, max_examples=150)
@given(st.data(), NAMES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_whatever_csv_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, names: list[str], end: str, tabs: bool
) -> None:
    rows = data.draw(st.lists(st.lists(FIELDS, min_size=len(names), max_size=len(names)), min_size=1, max_size=4))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if tabs else ",", lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    found = read(tmp_path_factory.getbasetemp(), text.getvalue(), "rows.tsv" if tabs else "rows.csv")
    assert [value for _, value in found] == [dict(zip(names, row, strict=True)) for row in rows]


@settings(deadline=None, max_examples=150)
@given(st.text('ab,;\t|"\n\r é') | st.binary())
def test_any_content_gives_rows_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    try:
        rows = read(tmp_path_factory.getbasetemp(), content)
    except DataError:
        return
    assert len({tuple(value) for _, value in rows}) <= 1  # type: ignore[arg-type]  # every row has all columns
