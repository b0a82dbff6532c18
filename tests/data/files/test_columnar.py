"""Parquet, Arrow and XLSX: typed rows as JSON values, and one clear error for files that are damaged."""

from __future__ import annotations

import datetime
import decimal
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data.files.base import How
from luthier.data.sources import read_rows
from luthier.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a\r\n\0\u2028"}], "n": 1, "x": 1.5, "b": True, "none": None},
    {"messages": [], "n": -(2**60), "x": 1e-300, "b": False, "none": None},
] * 300


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=100)
    else:
        kind = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with kind(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "stream.arrow", "rows.feather"])
def test_rows_come_back(tmp_path: Path, name: str) -> None:
    rows = list(read_rows(write(tmp_path / name)))
    assert [row.value for row in rows] == ROWS
    assert [row.origin.line for row in rows] == list(range(1, 601))
    assert len(list(read_rows(tmp_path / name, limit=3))) == 3


def test_values_that_json_lacks_are_text(tmp_path: Path) -> None:
    given = {
        "day": datetime.date(2026, 1, 2), "time": datetime.datetime(2026, 1, 2, 3, 4), "exact": decimal.Decimal("1.10"),
    }  # fmt: skip
    found = next(read_rows(write(tmp_path / "rows.parquet", [given]))).value
    assert found == {"day": "2026-01-02", "time": "2026-01-02T03:04:00", "exact": "1.10"}


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "stream.arrow"])
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, name: str, kept: float) -> None:
    path = write(tmp_path / name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(DataError, match=rf"^{path}: (cannot be read after \d+ rows|the file is empty)"):
        list(read_rows(path))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns are called 'text'"):
        list(read_rows(tmp_path / "rows.parquet"))


# ---- sheets --------------------------------------------------------------------------------------------------------


def sheet(path: Path, **sheets: list[list[Any]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(row)
    book.save(path)
    return path


def test_a_sheet(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2, 3, 4)
    rows = [["question", "n", "when"], [" a\n<b>&\u4f60\U0001f600 ", 3, day], [None, None, None], ["c", 1.5, None]]
    path = sheet(tmp_path / "rows.xlsx", first=rows, empty=[])
    how = How()
    found = [(row.origin.line, row.value) for row in read_rows(path, how=how)]
    assert found == [
        (2, {"question": " a\n<b>&\u4f60\U0001f600 ", "n": 3, "when": "2026-01-02T03:04:00"}),
        (4, {"question": "c", "n": 1.5, "when": None}),
    ]
    assert how.found == "sheet 'first'"


def test_which_sheet_is_said(tmp_path: Path) -> None:
    path = sheet(tmp_path / "rows.xlsx", one=[["text"], ["a"]], two=[["text"], ["b"]])
    with pytest.raises(DataError, match=r"rows in several sheets \(one, two\)"):
        list(read_rows(path))
    assert [row.value for row in read_rows(path, how=How(sheet="two"))] == [{"text": "b"}]
    with pytest.raises(DataError, match="no sheet 'three'; there are one, two"):
        list(read_rows(path, how=How(sheet="three")))


def test_damaged_sheets(tmp_path: Path) -> None:
    path = sheet(tmp_path / "rows.xlsx", one=[["text"], ["a"]])
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"rows.xlsx: cannot be read"):
            list(read_rows(path))
    with pytest.raises(DataError, match="the sheet is empty"):
        list(read_rows(sheet(tmp_path / "none.xlsx", one=[])))
    with pytest.raises(DataError, match="two columns are called 'a'"):
        list(read_rows(sheet(tmp_path / "twice.xlsx", one=[["a", "a"], [1, 2]])))


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.files.opened.SMALL", 1 << 20)
    monkeypatch.setattr("luthier.data.files.opened.MOST_INFLATED", 100)
    with zipfile.ZipFile(tmp_path / "rows.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b" " * (8 << 20))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        list(read_rows(tmp_path / "rows.xlsx"))
