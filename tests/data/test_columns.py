"""Columns that are called as people call them: taken where there is no doubt, shown, and refused where there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.config import SourceConfig, parse_config
from luthier.data.formats.columns import mapping
from luthier.data.recognise import Reading
from luthier.errors import AmbiguousFormat, DataError
from tests.data.reading import contents


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["Question", "Answer"], {"prompt": "Question", "completion": "Answer"}),
        (["id", " QUESTION ", "Response", "System prompt"], {"prompt": " QUESTION ", "completion": "Response",
                                                             "system": "System prompt"}),
        (["问题", "答案"], {"prompt": "问题", "completion": "答案"}),
        (["Q", "A"], {"prompt": "Q", "completion": "A"}),
        (["Text", "id"], {"text": "Text"}),
        (["评论"], {"text": "评论"}),
        (["Question", "Chosen", "Rejected"], {"prompt": "Question", "chosen": "Chosen", "rejected": "Rejected"}),
        (["symptom", "diagnosis"], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_what_names_say(columns: list[str], expected: dict[str, str]) -> None:
    assert mapping(columns, "rows.csv") == expected


@pytest.mark.parametrize(
    ("columns", "readings"),
    [
        (["Question", "Query", "Answer"], [{"prompt": "Question"}, {"prompt": "Query"}]),
        (["text", "Sentiment"], [{"prompt": "text", "completion": "Sentiment"}, {"text": "text"}]),
    ],
)
def test_doubt_is_refused_with_lines_to_write(columns: list[str], readings: list[dict[str, str]]) -> None:
    with pytest.raises(AmbiguousFormat) as caught:
        mapping(columns, "my rows: 1.csv")
    lines = str(caught.value).splitlines()[1:]
    written = [parse_config({"model": "m", "output": "o", **yaml.safe_load(line)}).data.train[0] for line in lines]
    assert [source.path for source in written] == ["my rows: 1.csv"] * len(readings)
    assert [source.columns for source in written] == readings


def read(folder: Path, content: str, **settings: Any) -> tuple[list[Any], Reading]:
    path = folder / "rows.csv"
    path.write_text(content, encoding="utf-8")
    readings: list[Reading] = []
    source = SourceConfig(path=str(path), **settings)
    return contents([source], readings=readings), readings[0]


def test_a_table_is_read_and_its_columns_are_said(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "nr;Frage;Antwort\n1;Wie?;So.\n", columns={"prompt": "Frage", "completion": "Antwort"})
    assert [m.content for m in rows[0].messages] == ["Wie?", "So."]
    rows, reading = read(tmp_path, "id;Question;Answer\n1;How?;So.\n2;Why?;Thus.\n")
    assert [m.content for m in rows[1].messages] == ["Why?", "Thus."]
    assert str(reading).endswith(
        "rows.csv: 2 rows, format prompt-completion (recognised; semicolons between columns; "
        "prompt is 'Question', completion is 'Answer')"
    )


def test_columns_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no format reads these rows \(rows with the keys diagnosis, symptom\)"):
        read(tmp_path, "symptom,diagnosis\na,b\n")
    with pytest.raises(AmbiguousFormat, match="is 'label' to be answered"):
        read(tmp_path, "text,label\na,b\n")
    assert read(tmp_path, "text,label\na,b\n", format="text")[0][0].text == "a"
    assert len(read(tmp_path, "text,label\na,b\n", columns={"text": "text"})[0]) == 1
