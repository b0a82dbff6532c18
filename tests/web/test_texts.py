"""Every text is there in every language, with the same values in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from luthier.cli.main import app
from luthier.web import commands, forms
from luthier.web.app import COMMANDS
from luthier.web.texts import LANGUAGES, Speaker, helps, preferred, texts
from tests.house.source import ROOT


def test_no_key_is_missing() -> None:
    english = texts("en")
    for language in LANGUAGES:
        found = texts(language)
        assert found.keys() == english.keys()
        for key, said in found.items():
            assert re.findall(r"{\w+}", said) == re.findall(r"{\w+}", english[key]), key


def test_what_is_asked_for_is_there() -> None:
    """Keys in the code, sections of a config, commands of tabs."""
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "luthier" / "web").glob("*.py"))
    asked = set(re.findall(r'say\("([\w.]+)"', code)) | {f"section.{name}" for name in forms.sections()}
    words = {word for name, several in COMMANDS.items() for word in several}
    asked |= {f"command.{word.replace(' ', '_')}" for word in words | set(re.findall(r'"(data \w+)"', code))}
    asked |= {f"tab.{name}" for name in COMMANDS} | {f"{name}.about" for name in COMMANDS}
    assert len(asked) > 25 and asked - texts("en").keys() == set()


def _helps(node: Any) -> Iterator[str]:
    """What a schema says of its keys."""
    if isinstance(node, dict):
        yield from (forms._resolved(one).get("description", "") for one in node.get("properties", {}).values())
        node = list(node.values())
    for one in node if isinstance(node, list) else ():
        yield from _helps(one)


def test_every_help_is_there() -> None:
    """Of all keys of a config and options of the board's commands; none that nobody says any more."""
    root = typer.main.get_command(app)
    code = (ROOT / "luthier" / "web" / "pages.py").read_text(encoding="utf-8")
    words = {word for several in COMMANDS.values() for word in several} | set(re.findall(r'"(data \w+)"', code))
    options = [field.about for word in words for field in commands.fields(root, word)]
    said = {" ".join(text.split()) for text in (*_helps(forms.schema()), *options)} - {""}
    for language in LANGUAGES.keys() - {"en"}:
        assert said - helps(language).keys() == set() and helps(language).keys() - said == set()


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("de,en;q=0.5,zh;q=0.7", "zh"),
        ("en-US", "en"),
        ("", "en"),
        ("fr;q=x,zh", "zh"),
    ],
)
def test_the_language_of_a_browser(accepted: str, language: str) -> None:
    assert preferred(accepted) == language


def test_values_in_texts() -> None:
    assert "`a`" in Speaker("zh")("data.taken", names="`a`")
