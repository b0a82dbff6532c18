"""What is said about a source of rows."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.config import SourceConfig
from luthier.data.inspect import inspect


def test_all_of_a_file_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"q{n}", "completion": "a" * n, "topic": "t", "system": None} for n in range(300)]
    rows += [rows[7], {"prompt": "q", "completion": 3, "topic": "t", "system": None}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspect(SourceConfig(path=str(file)), str(file), shown=1)
    assert (found.reading.format, found.reading.rows, found.usable, found.repeated) == (
        "prompt-completion",
        302,
        300,
        1,
    )
    assert found.bad_counts == {"empty-answer": 1, "bad-message": 1} and found.unread == ["topic"]
    assert [str(error).split(":")[1] for error in found.bad.values()] == ["1", "302"]
    assert found.share == 1.0 and found.others == {} and found.encoding == "utf-8" and len(found.first) == 1
    assert len(found.characters) == 300 and max(found.characters) == len("q299\n") + 299
    assert len(found.sample) == 300


def test_the_sample_is_of_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("".join(f"line {n}\n" for n in range(3000)))
    sample = [int(text.split()[1]) for text in inspect(SourceConfig(path=str(file)), str(file)).sample]
    assert len(sample) == 300 and 1300 < sum(sample) / 300 < 1700
