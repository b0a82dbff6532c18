"""Word lists of a few words in place of WordNet and Cilin, and rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.data.clean.base import Said, said
from luthier.data.conversation import Content, Conversation, Message

SENSES = """\
assemble%2:36:00:: 2 1 90
big%3:00:00:: 11 1 60
build%2:36:00:: 2 1 120
calculate%2:31:00:: 1 1 20
city%1:15:00:: 3 1 100
color%1:07:00:: 9 1 50
colour%1:07:00:: 9 1 1
compute%2:31:00:: 1 1 35
construct%2:36:00:: 2 1 28
huge%3:00:00:: 11 1 50
metropolis%1:15:00:: 3 1 7
often%4:02:00:: 4 1 150
frequently%4:02:00:: 4 1 39
quickly%4:02:00:: 8 1 30
speedily%4:02:00:: 8 1 9
swim%2:38:00:: 7 1 3
swim%2:38:01:: 77 2 9
float%2:38:00:: 7 1 8
unused%3:00:00:: 5 1 0
"""
CILIN = {"A": {"tag": "", "sub": {"a": {"tag": "", "sub": {
    "01=": ["到达", "抵达", "达到"], "02=": ["到", "抵"], "03=": ["石油", "原油"], "04#": ["纠正", "改正"],
    "05=": ["面色", "脸色"], "06=": ["面色", "面容"], "07=": ["面", "脸"],
}}}}}  # fmt: skip


@pytest.fixture(autouse=True)
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of Luthier, with both lists."""
    home = tmp_path / "home"
    for name, file, text in (("wordnet", "index.sense", SENSES), ("cilin", "cilin_tree.json", json.dumps(CILIN))):
        (home / "models" / name).mkdir(parents=True)
        (home / "models" / name / file).write_text(text, encoding="utf-8")
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    return home


def talk(*said: str, system: str = "") -> Conversation:
    """Turns of user and assistant."""
    before = [Message(role="system", content=system)] if system else []
    turns = [Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(said)]
    return Conversation((*before, *turns))


def placed(*contents: Content, file: str = "rows.jsonl") -> list[Said]:
    """Rows with a line each."""
    return [said(content, f"{file}:{line}") for line, content in enumerate(contents, 1)]
