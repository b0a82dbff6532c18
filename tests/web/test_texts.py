"""Every text is there in every language, with the same values in it."""

from __future__ import annotations

import re

import pytest

from luthier.web import forms
from luthier.web.app import COMMANDS
from luthier.web.texts import LANGUAGES, Speaker, preferred, texts
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
