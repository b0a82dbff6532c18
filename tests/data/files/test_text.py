"""Plain text into rows: nothing but the line breaks around a text is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.files.base import How
from luthier.data.files.opened import Opened
from luthier.data.sources import read_rows
from luthier.errors import DataError

LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1).filter(str.strip)


def read(
    folder: Path, content: str, name: str = "rows.txt", unit: Any = "auto"
) -> tuple[list[tuple[int, object]], str]:
    (folder / name).write_bytes(content.encode())
    how = How(text_unit=unit)
    return [(row.origin.line, row.value) for row in read_rows(folder / name, how=how)], how.note


@pytest.mark.parametrize(
    ("content", "unit", "rows"),
    [
        ("one\ntwo\n\nthree", "line", [(1, "one"), (2, "two"), (4, "three")]),
        ("one\r\ntwo\r\n", "line", [(1, "one"), (2, "two")]),
        ("one\n\n\ntwo\n", "line", [(1, "one"), (4, "two")]),
        ("one\n two \n\n\nthree\n", "paragraph", [(1, "one\n two "), (5, "three")]),
        ("one\ntwo\n \nthree\nfour", "paragraph", [(1, "one\ntwo"), (4, "three\nfour")]),
        ("a\u2028b\x0bc\x0cd\x85e", "line", [(1, "a\u2028b\x0bc\x0cd\x85e")]),
    ],
)
def test_a_text_is_a_line_or_a_paragraph(
    tmp_path: Path, content: str, unit: str, rows: list[tuple[int, object]]
) -> None:
    if unit == "line" and "\n\nthree" in content:
        assert read(tmp_path, content, unit="line")[0] == rows
        return
    assert read(tmp_path, content) == (rows, f"one text a {unit}")


def test_markdown_is_one_text(tmp_path: Path) -> None:
    content = "# Title\n\nSome text.\n\n    code\n"
    assert read(tmp_path, content, "page.md") == ([(1, content.strip("\n"))], "one text a file")
    assert len(read(tmp_path, content, "page.md", unit="paragraph")[0]) == 3


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path, " \n\n")


def test_a_text_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.files.text.LARGEST_ROW", 1000)
    with pytest.raises(DataError, match=r"rows.txt:2: a row of more than"):
        read(tmp_path, "short\n" + "x" * 1001)
    with pytest.raises(DataError, match=r"rows.txt:1: a row of more than"):
        read(tmp_path, "line\n" * 500, unit="file")
    assert len(read(tmp_path, "line\n" * 500, unit="line")[0]) == 500


@settings(deadline=None, max_examples=100)
@given(st.lists(LINES, min_size=1, max_size=5))
def test_every_line_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Opened.read, "__defaults__", (5,))
        rows, _ = read(tmp_path_factory.getbasetemp(), "\n".join(texts).removeprefix("\ufeff"), unit="line")
    texts = [text for text in "\n".join(texts).removeprefix("\ufeff").split("\n") if text.strip()]
    assert [text for _, text in rows] == texts
