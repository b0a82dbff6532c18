"""YAML and PO into rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.data.files.base import How
from luthier.data.sources import read_rows
from luthier.errors import DataError

CHATTER = """categories:
- AI
conversations:
- - What is AI?
  - Artificial Intelligence is the branch of engineering.
  - No
- - "007"
  - 42
"""


def read(folder: Path, content: str, name: str = "rows.yml") -> list[tuple[int, object]]:
    (folder / name).write_text(content, encoding="utf-8")
    return [(row.origin.line, row.value) for row in read_rows(folder / name)]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (
            CHATTER,
            [(4, ["What is AI?", "Artificial Intelligence is the branch of engineering.", "No"]), (7, ["007", "42"])],
        ),
        (
            "- prompt: yes\n  completion: null\n- prompt: 1.50\n",
            [(1, {"prompt": "yes", "completion": "null"}), (3, {"prompt": "1.50"})],
        ),
        ("messages:\n- role: user\n  content: a\n", [(1, {"messages": [{"role": "user", "content": "a"}]})]),
        ("prompt: a\ncompletion: b\n", [(1, {"prompt": "a", "completion": "b"})]),
        ("- text: |\n    a\n    b\n- text: >-\n    a\n    b\n", [(1, {"text": "a\nb\n"}), (4, {"text": "a b"})]),
    ],
)
def test_rows_and_their_lines(tmp_path: Path, content: str, rows: list[tuple[int, object]]) -> None:
    assert read(tmp_path, content) == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("- a: [1\n", r"rows.yml:2: not valid YAML"),
        ("- a: 1\n  a: 2\n", "rows.yml:2: the key 'a' is given twice"),
        ("- ? [1]\n  : 2\n", "rows.yml:1: a key must be text"),
        ("- &a [*a]\n", "aliases"),
        ("a:\n- [x]\nb:\n- [y]\n", "2 keys hold lists of rows"),
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ("- \t- a", "rows.yml:1: not valid YAML"),
        ("--- a\n--- b\n", "not valid YAML"),
    ],
)
def test_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)


def test_tags_make_no_objects(tmp_path: Path) -> None:
    assert read(tmp_path, "- !!python/object/apply:os.system [echo]\n") == [(1, ["echo"])]


def test_a_bomb_of_aliases(tmp_path: Path) -> None:
    content = "- &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        content += f"- &{name} [{', '.join(f'*{before}' for _ in range(10))}]\n"
    with pytest.raises(DataError, match="aliases"):
        read(tmp_path, content)


PO = """msgid ""
msgstr ""
"Language: fr\\n"
"Content-Type: text/plain; charset=UTF-8\\n"

msgid "Yes"
msgstr "Oui"

#, fuzzy
msgid "No"
msgstr "Peut-être"

msgid "Never"
msgstr ""

msgid "%d day"
msgid_plural "%d days"
msgstr[0] "%d jour"
msgstr[1] "%d jours"

#~ msgid "Old"
#~ msgstr "Vieux"
"""


def test_a_catalogue_of_translations(tmp_path: Path) -> None:
    languages = {"source_lang": "en", "target_lang": "fr"}
    assert read(tmp_path, PO, "fr.po") == [
        (6, {"source": "Yes", "target": "Oui"} | languages),
        (16, {"source": "%d days", "target": "%d jours"} | languages),
    ]
    how = How()
    list(read_rows(tmp_path / "fr.po", how=how))
    assert how.found == "3 messages without a translation"
    with pytest.raises(DataError, match=r"bad.po: not valid PO"):
        read(tmp_path, 'msgid "a\nmsgstr', "bad.po")
