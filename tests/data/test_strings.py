"""Every string comes back byte for byte, through every kind of file and every layout."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from luthier.data.conversation import Conversation, Labelled, Origin, Preference, Row, Text
from luthier.data.files.base import How
from luthier.data.formats.base import named
from luthier.data.sources import read_rows
from tests.data.strings import awkward

STRINGS = awkward()


def as_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([("n", "text"), *((str(n), text) for n, text in enumerate(texts))])


def as_sheet(path: Path, texts: list[str]) -> None:
    book = openpyxl.Workbook()
    for row in [("n", "text"), *((str(n), text) for n, text in enumerate(texts))]:
        book.active.append(row)
        for cell in book.active[book.active.max_row]:
            cell.data_type = "s"  # not a formula
    book.save(path)


def lines(texts: list[str], ascii_only: bool) -> bytes:
    return "\n".join(json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts).encode()


WRITERS: dict[str, Callable[[Path, list[str]], object]] = {
    "a.jsonl": lambda path, texts: path.write_bytes(lines(texts, False)),
    "b.jsonl": lambda path, texts: path.write_bytes(lines(texts, True)),
    "c.jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(lines(texts, False))),
    "d.json": lambda path, texts: path.write_text(json.dumps([{"text": text} for text in texts], indent=1)),
    "utf-16.jsonl": lambda path, texts: path.write_bytes(lines(texts, False).decode().encode("utf-16")),
    "e.csv": as_csv,
    "f.tsv": as_csv,
    "g.parquet": lambda path, texts: pq.write_table(pa.table({"text": texts}), path),
    "h.xlsx": as_sheet,
}


def test_there_are_enough() -> None:
    assert len(STRINGS) == len(set(STRINGS)) >= 500


@pytest.mark.parametrize("name", WRITERS)
def test_through_files(tmp_path: Path, name: str) -> None:
    texts = STRINGS
    if name.endswith(".xlsx"):  # XML holds no control characters, and makes one line break of any
        texts = [
            text
            for text in texts
            if not ILLEGAL_CHARACTERS_RE.search(text) and not {"\r", "\ufffe", "\uffff"} & set(text)
        ]
    WRITERS[name](tmp_path / name, texts)
    found = [row.value["text"] for row in read_rows(tmp_path / name)]
    assert len(found) == len(texts)
    assert [(a, b) for a, b in zip(texts, found, strict=True) if a != b] == []


def test_through_plain_text(tmp_path: Path) -> None:
    """A text is a line here; what makes no line of its own, or begins or ends with a break, cannot be one."""
    texts = [text for text in STRINGS if "\n" not in text and text.strip() and text == text.strip("\r")]
    texts.sort(key=lambda text: text.startswith("\ufeff"))  # at the very beginning it would be a mark
    (tmp_path / "a.txt").write_bytes("\n".join(texts).encode())
    assert [row.value for row in read_rows(tmp_path / "a.txt", how=How(text_unit="line"))] == texts


@pytest.mark.parametrize("text", [text for text in STRINGS if text.strip()], ids=lambda text: ascii(text)[:40])
def test_through_layouts(text: str) -> None:
    user, model = {"role": "user", "content": text}, {"role": "assistant", "content": f"{text}!"}
    rows: dict[str, object] = {
        "messages": {"messages": [{"role": "system", "content": text}, user, model]},
        "sharegpt": {
            "system": text,
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": f"{text}!"}],
        },
        "alpaca": {"system": text, "instruction": text, "input": "", "output": f"{text}!"},
        "prompt-completion": {"system": text, "prompt": text, "completion": f"{text}!"},
        "labelled": {"system": text, "prompt": text, "completion": f"{text}!", "label": True},
        "preference": {"system": text, "prompt": text, "chosen": f"{text}!", "rejected": "no"},
        "text": text,
    }
    for name, value in rows.items():
        content = named(name).read(Row(Origin("f", 1), value))
        content = content.answer if isinstance(content, Labelled) else content
        content = content.chosen if isinstance(content, Preference) else content
        if isinstance(content, Text):
            assert content.text == text
            continue
        assert isinstance(content, Conversation)
        assert [m.content for m in content.messages] == [text, text, f"{text}!"], name
