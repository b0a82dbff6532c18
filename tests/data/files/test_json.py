"""JSON files into rows: every layout, the right lines, and one clear error for anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.files.opened import Opened
from luthier.data.sources import read_rows
from luthier.errors import DataError

FUZZ = settings(deadline=None, max_examples=80)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10)
ROWS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=5)


def write(folder: Path, content: str | bytes, name: str = "rows.json") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: Any) -> list[tuple[int, Any]]:
    rows = list(read_rows(path, **options))
    assert all(row.origin.file == str(path) for row in rows)
    return [(row.origin.line, row.value) for row in rows]


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1},\n {"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})]),
        ('\n\n[\n  {\n    "a": 1\n  },\n\n  {"a": 2}\n]\n', [(4, {"a": 1}), (8, {"a": 2})]),
        ('{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": 1}\r\n\r\n{"a": 2}', [(1, {"a": 1}), (3, {"a": 2})]),
        ('{"a": 1}{"a": 2} {\n"a": 3}\n{"a": 4}', [(1, {"a": 1}), (1, {"a": 2}), (1, {"a": 3}), (3, {"a": 4})]),
        ('"one"\n"two"', [(1, "one"), (2, "two")]),
        ('["one",\n"two"]', [(1, "one"), (2, "two")]),
        ('{"data": [\n{"a": 1},\n\n{"a": 2}\n]}', [(2, {"a": 1}), (4, {"a": 2})]),
        ('{"data":\n[{"a": 1}, {"a": 2}]\n}\n', [(2, {"a": 1}), (2, {"a": 2})]),
        ('{"a": 1}', [(1, {"a": 1})]),
        ("\ufeff" + '{"a": "\u00e4\u2028\u4f60"}\n{"a": 2}', [(1, {"a": "\u00e4\u2028\u4f60"}), (2, {"a": 2})]),
        ("[]", []),
        (" [ \n ] ", []),
        ("7", [(1, 7)]),
        ('null\n{"a": 1}', [(1, None), (2, {"a": 1})]),
    ],
)
def test_rows_and_their_lines(tmp_path: Path, content: str, expected: list[tuple[int, Any]]) -> None:
    assert read(write(tmp_path, content)) == expected
    assert read(write(tmp_path, content, "ROWS.JSONL")) == expected  # the content decides, not the name


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"conversations": [{"from": "human", "value": "hi"}]},
        {"messages": []},
        {"history": [["a", "b"]]},
        {"version": 1, "data": [{"a": 1}]},
        {"prompt": "a", "completion": "b", "tools": [{"name": "f"}]},
    ],
)
def test_one_object_alone_is_one_row_unless_it_can_only_hold_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(write(tmp_path, json.dumps(row))) == [(1, row)]


@FUZZ
@given(ROWS, st.sampled_from(["array", "indented", "lines", "blank lines", "one after another", "object"]))
@example([{"": "\x7f\u0085\u2028\ufeff\U0001f600"}], "lines")
def test_whatever_json_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], how: str) -> None:
    ascii_only = len(rows) % 2 == 0
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    content = {
        "array": json.dumps(rows, ensure_ascii=ascii_only),
        "indented": json.dumps(rows, indent=1, ensure_ascii=ascii_only),
        "lines": "\n".join(lines),
        "blank lines": "\n\n".join(lines) + "\n",
        "one after another": "".join(lines),
        "object": json.dumps({"data": [{"row": row} for row in rows]}, indent=2),
    }[how]
    found = read(write(tmp_path_factory.getbasetemp(), content))
    values = [value for _, value in found]
    if how == "object":
        assert values == [{"row": row} for row in rows]
    elif how not in ("array", "indented") and len(rows) == 1:  # then it may be an object that holds rows
        assert values in (rows, next(iter(rows[0].values()), None))
    else:
        assert values == rows
    if how in ("lines", "blank lines") and len(rows) > 1:
        assert [line for line, _ in found] == list(range(1, 10, 1 if how == "lines" else 2))[: len(rows)]
    if how == "indented":
        starts = [n for n, line in enumerate(content.split("\n"), 1) if line.startswith(" {")]
        assert [line for line, _ in found] == starts


@pytest.mark.parametrize("content", ['[{"a": 1}, {"a": 2}, {"a": 3}]', '{"a": 1}\n{"a": 2}\n{"a": 3}'])
def test_limit_takes_the_first_rows(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    assert [value["a"] for _, value in read(path, limit=2)] == [1, 2]
    assert len(read(path, limit=9)) == 3


def test_what_stands_behind_the_limit_is_not_looked_at(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, '{"a": 1}\n{"a": 2}\nbroken'), limit=2)) == 2


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ('{"a": 1}\n{"a": 1, "b": 2, "a": 3}', 2, "the key 'a' is given twice"),
        ('[{"a": 1},\n{"b": {"c": 1, "c": 1}}]', 2, "the key 'c' is given twice"),
        ('{"a": 1}\n{"a": NaN}', 2, "NaN is not JSON"),
        ('{"a": Infinity}', 1, "Infinity is not JSON"),
        ('{"a": -Infinity}', 1, "-Infinity is not JSON"),
        ('{"a": 0}\n{"a": 1e999}', 2, "the number 1e999 is too large"),
        ('{"a": -1e999}', 1, "the number -1e999 is too large"),
        ('{"a": 0}\n{"a": ' + "7" * 5000 + "}", 2, "a number of 5000 digits"),
        ('{"a": 0}\n{"a": "\\ud83d"}', 2, "lone surrogate"),
        ('{"\\uDE00 key": 1}', 1, "lone surrogate"),
        ('{"a": 1}\n{"a": "x\0"}' + " " * 70000, 2, "NUL bytes"),
        ('{"a": 1}\n' + " " * 70000 + '\n{"a": "x\0"}', 3, "NUL bytes"),
        (b'{"a": 1}\n{"a": "\x81\x8d"}', 2, "not UTF-8 (byte 0x81 at offset 16)"),
        (b'\xef\xbb\xbf{"a": 1}\n{"a": "\xe9"}', 2, "not UTF-8 (byte 0xe9 at offset 19)"),
        (b'{"a": "\xed\xa0\x80"}', 1, "not UTF-8"),
        ('[{"a": 1},\n{"a": 2}', 2, "is the file cut off?"),
        ('[{"a": 1},\n{"a": 2},\n', 3, "is the file cut off?"),
        ('[{"a": 1},\n{"a": "two', 2, "is the file cut off?"),
        ('[{"a": 1},\n{"a": ', 2, "is the file cut off?"),
        ('{"a": 1}\n{"a": 2', 2, "is the file cut off?"),
        ("[", 1, "is the file cut off?"),
        ('[{"a": 1}]\n{"a": 2}', 2, "text after the end of the array"),
        ("[1]\n\n]", 3, "text after the end of the array"),
        ('[{"a": 1},\n]', 2, "not valid JSON"),
        ('[{"a": 1}\n{"a": 2}]', 2, "expected ',', found '{'"),
        ('{"a": 1},\n{"a": 2}', 1, "not valid JSON"),
        ("{'a': 1}", 1, "not valid JSON"),
        ('{"a": 1}\n{"a": "one\ntwo"}', 2, "not valid JSON"),
        ("a,b\n1,2\n", 1, "not valid JSON"),
        ("", None, "the file is empty"),
        (" \n\t\r\n ", None, "the file is empty"),
        ("\ufeff", None, "the file is empty"),
        ("\ufeff \n", None, "the file is empty"),
    ],
)
def test_refused_with_file_and_line(tmp_path: Path, content: str | bytes, line: int | None, said: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": 1}\n' + "[" * 100_000 + "]" * 100_000,
        '{"a": ' + "[" * 101 + "]" * 101 + "}",
    ],
    ids=["open arrays", "open objects", "closed arrays", "little more than allowed"],
)
def test_deep_nesting_is_one_clear_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="nested too deeply") as caught:
        read(write(tmp_path, content))
    assert len(str(caught.value)) < 500


def test_brackets_that_are_not_nested_are_no_depth(tmp_path: Path) -> None:
    row = {"a": "[{" * 500, "b": [[1]] * 500, "c": json.loads("[" * 99 + "]" * 99)}
    assert read(write(tmp_path, json.dumps([row]))) == [(1, row)]


@pytest.mark.parametrize("name", ["folder", "folder.json"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="a folder; give one of its files"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.json", "no such file"), ("a\0b.json", "cannot be read"), ("x" * 300 + ".json", "cannot be read")],
)
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is readable")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": 1}')
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path)


# ---- fuzz --------------------------------------------------------------------------------------------------------

WHOLE = [
    b'[{"a": "\xc3\xa9\\ud83d\\ude00"},\n {"a": [1.5e3, -2, null, true]}]',
    b'{"a": 1}\n{"b": {"c": "d\\n"}}\n',
    b'\xef\xbb\xbf{"data": [{"a": 1},\n{"a": 2}]}',
]


def rows_or_data_error(folder: Path, content: bytes) -> None:
    try:
        found = read(write(folder, content))
    except DataError:
        return
    lines = [line for line, _ in found]
    assert lines == sorted(lines) and set(lines) <= set(range(1, content.count(b"\n") + 2))
    for _, value in found:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@FUZZ
@given(st.binary() | st.text('[]{}",:\\u0dDeE19.- \ntrue').map(str.encode))
@example(b"")
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    rows_or_data_error(tmp_path_factory.getbasetemp(), content)


@FUZZ
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4), st.binary(max_size=3)), max_size=4),
)
def test_any_damage_gives_rows_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[tuple[int, int, bytes]]
) -> None:
    for place, length, patch in cuts:
        content = content[:place] + patch + content[place + length :]
    rows_or_data_error(tmp_path_factory.getbasetemp(), content)


# ---- of any size -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read seven bytes at a time, so that every place is a border once."""
    monkeypatch.setattr(Opened.read, "__defaults__", (7,))


@pytest.mark.usefixtures("small_pieces")
@FUZZ
@given(ROWS, st.sampled_from([None, 1]), st.booleans())
def test_rows_come_whole_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, array: bool
) -> None:
    content = json.dumps(rows, indent=indent) if array else "\n".join(json.dumps(row, indent=indent) for row in rows)
    if not array and len(rows) == 1:
        content += " {}"
        rows = [*rows, {}]
    assert [value for _, value in read(write(tmp_path_factory.getbasetemp(), content))] == rows


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "content", ["[1234567, 12345678, true, -1.25e-3]", '{"data": [{"a": 1234567}, {"a": [2]}] }  ']
)
def test_numbers_at_a_border(tmp_path: Path, content: str) -> None:
    rows = json.loads(content)
    assert [value for _, value in read(write(tmp_path, content))] == (rows["data"] if isinstance(rows, dict) else rows)


def test_a_row_too_long_is_refused_and_a_long_file_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.files.json.LARGEST_ROW", 2000)
    monkeypatch.setattr(Opened.read, "__defaults__", (100,))
    rows = [{"a": "x" * 500}] * 20
    assert len(read(write(tmp_path, json.dumps({"data": rows}, indent=1)))) == 20  # longer than any row may be
    for content in ('{"a": 1}\n{"a": "' + "x" * 2001 + '"}', '{"a": 1}\n{"a": "' + "x" * 9000):
        with pytest.raises(DataError, match=r"rows.json:2: a row of more than .* million characters"):
            read(write(tmp_path, content))
    with pytest.raises(DataError, match=r"rows.json:\d+: text after the end of the object that holds the rows"):
        read(write(tmp_path, json.dumps({"data": rows}) + "{}"))
    with pytest.raises(DataError, match=r"rows.json:\d+: expected '}', found ','"):
        read(write(tmp_path, json.dumps({"data": rows, "b": 1})))
