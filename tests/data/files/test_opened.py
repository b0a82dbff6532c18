"""Files as bytes: unpacked by what they hold, refused where they are cut off, bombs, or no files."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from luthier.data.sources import read_rows
from luthier.errors import DataError

ROWS = "".join(f'{{"text": "row {n}"}}\n' for n in range(5000))
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda raw: zstd.compress(raw, options={zstd.CompressionParameter.checksum_flag: 1}),
}


def read(path: Path) -> list[object]:
    return [row.value for row in read_rows(path)]


@pytest.mark.parametrize("ending", PACK)
def test_packed_files(tmp_path: Path, ending: str) -> None:
    raw = PACK[ending](ROWS.encode())
    for name in (f"rows.jsonl{ending}", f"ROWS.JSON{ending.upper()}", "rows.jsonl"):  # the content says it is packed
        (tmp_path / name).write_bytes(raw)
        assert len(read(tmp_path / name)) == 5000
    (tmp_path / f"twice.csv{ending}").write_bytes(PACK[ending](b"a,b\n1,2\n") + PACK[ending](b"3,4\n"))
    assert read(tmp_path / f"twice.csv{ending}") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kept", [3, 0.2, 0.5, 0.9, -1])
def test_a_packed_file_that_is_cut_off(tmp_path: Path, ending: str, kept: float) -> None:
    raw = PACK[ending](ROWS.encode())
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(raw[: int(kept * len(raw)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(DataError, match=r"rows.jsonl.*(cannot be unpacked after .*cut off\?|not UTF-8)"):
        read(path)


@pytest.mark.parametrize("ending", PACK)
def test_a_packed_file_with_a_changed_byte(tmp_path: Path, ending: str) -> None:
    raw = bytearray(PACK[ending](ROWS.encode()))
    raw[len(raw) // 2] ^= 0x10
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"rows.jsonl"):
        read(path)


@pytest.mark.parametrize("ending", PACK)
def test_a_bomb(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.files.opened.SMALL", 1 << 20)
    monkeypatch.setattr("luthier.data.files.opened.MOST_INFLATED", 100)
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](b"\n" * (8 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        read(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.json").mkdir()
    for name, said in (
        ("pipe.jsonl", "not a regular file"), ("folder.json", "a folder"), ("none.json", "no such file"),
        ("a\0b.json", "cannot be read"), ("x" * 300 + ".json", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.pdf", "rows", ".json", "rows.gz", "rows.docx.gz"])
def test_other_names_are_refused_with_those_allowed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b'{"a": 1}') if name.endswith("gz") else b'{"a": 1}')
    with pytest.raises(DataError, match=r"cannot read .*allowed: \.json, \.jsonl, .*also packed as \.gz"):
        read(tmp_path / name)
