"""No page leads out of the folder that the board was started for."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import UserError
from luthier.web.guard import foreign, inside, kept

AWAY = [
    "/etc/passwd", "../x", "a/../../x", "~/x", "~root/x", "output.dir=/tmp/x", "--memory=../x", "hub:/etc",
    "x,/etc/passwd", "file:///etc/passwd", "a\x00b", "link/x", "models:/../x",
    "models:/a/../../../x", "data.train=[/etc/passwd]", 'x="/etc/passwd"', "x={a: [{b: ../../y}]}", "~nobody-here/x",
    "exact_match, /etc/evil", " /etc/passwd", "x = /etc/passwd",
    "http://a/../../../etc/passwd", "http://127.0.0.1/v1,/etc/passwd",
]  # fmt: skip
HERE = [
    "data/a.csv",
    "runs/first",
    "smollm2-135m-instruct",
    "owner/name",
    "hub:owner/name",
    "train.epochs=2",
    "",
    "--limit",
    "models:/support/3",
    "models:/support@live",
    "a/../b",
    "Answer: /no_think",
    "http://127.0.0.1:8000/v1#small",
    "https://example.org/v1",
    "data.train=[data/a.csv, b.csv]",
]


@pytest.mark.parametrize("word", AWAY)
def test_what_leads_away_is_refused(tmp_path: Path, word: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads out of"):
        inside(home, ["check", word])


def test_what_is_here_may_be_used(tmp_path: Path) -> None:
    inside(tmp_path, HERE)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("rows.csv", "data/rows.csv"),
        ("my rows?.csv", "data/my_rows_.csv"),
        (".env.csv", "data/env.csv"),
        ("行.jsonl", "data/行.jsonl"),
    ],
)
def test_a_dropped_file_gets_a_plain_name(tmp_path: Path, name: str, target: str) -> None:
    source = tmp_path / name
    source.write_text("a,b\n1,2\n", encoding="utf-8")
    found = kept(tmp_path / "home", source)
    assert found == target and (tmp_path / "home" / found).read_text(encoding="utf-8") == "a,b\n1,2\n"


def test_another_file_of_the_same_name_stands_beside(tmp_path: Path) -> None:
    for folder, text in (("one", "1"), ("two", "2"), ("three", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text(text, encoding="utf-8")
    names = [kept(tmp_path / "home", tmp_path / folder / "rows.csv") for folder in ("one", "two", "three")]
    assert names == ["data/rows.csv", "data/rows-2.csv", "data/rows.csv"]


def test_what_is_not_read_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "x.exe").write_bytes(b"MZ")
    with pytest.raises(UserError, match=r"x\.exe: files that end in"):
        kept(tmp_path, tmp_path / "x.exe")


def test_commands_write_no_code(tmp_path: Path) -> None:
    for word in ("x.py", "--output=a/x.PY", "x.py:score"):
        with pytest.raises(UserError, match="the board writes no code"):
            inside(tmp_path, [word])
    inside(tmp_path, ["rewards.py"], code=True)
    with pytest.raises(UserError, match="leads out of"):  # the command that reads it strips each of its parts
        inside(tmp_path, ["exact_match, /etc/evil.py"], code=True)


@pytest.mark.parametrize(
    ("host", "origin", "known", "refused"),
    [
        ("127.0.0.1:7860", None, False, False),
        ("localhost:7860", "http://localhost:7860", False, False),
        ("[::1]:7860", "http://[::1]:7860", False, False),
        ("evil.example:7860", None, False, True),
        ("evil.example:7860", "http://evil.example:7860", False, True),
        ("127.0.0.1:7860", "http://evil.example", False, True),
        ("127.0.0.1:7860", "http://127.0.0.1:9999", False, True),
        ("127.0.0.1:7860", "null", False, True),
        ("board.example", "https://board.example", True, False),
        ("board.example", "https://evil.example", True, True),
        ("", None, False, True),
    ],
)
def test_who_asks(host: str, origin: str | None, known: bool, refused: bool) -> None:
    assert foreign({"host": host} | ({"origin": origin} if origin else {}), known=known) is refused
