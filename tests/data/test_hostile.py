"""Hostile files: every one is read as it is, or refused with file and line; nothing hangs or changes silently."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luthier.data.sources import read_rows
from luthier.errors import DataError
from tests.data import hostile

FILES = list(hostile.files())


def test_there_are_enough_and_none_twice() -> None:
    names = [name for name, _, _ in FILES]
    assert len(set(names)) == len(names) >= 300


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "txt"])
def test_read_or_refused(tmp_path: Path, suffix: str, ending: str) -> None:
    wrong = []
    for name, content, expected in FILES:
        if not name.endswith(f".{suffix}{ending}"):
            continue
        path = tmp_path / name
        path.write_bytes(content)
        try:
            found: object = [row.value for row in read_rows(path)]
        except DataError as error:
            found = str(error)
        path.unlink()
        if isinstance(expected, str):
            fine = isinstance(found, str) and re.search(expected, found, re.DOTALL) and found.startswith(str(path))
        else:
            fine = json.dumps(found) == json.dumps(expected)  # 1 is not 1.0, and -0.0 is not 0
        if not fine:
            wrong.append(f"{name}: expected {str(expected)[:200]}, found {str(found)[:300]}")
    assert not wrong, "\n".join(wrong)
