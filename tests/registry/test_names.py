"""Names of the registry, which must never be read as paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config import OutputConfig
from luthier.errors import ModelError
from luthier.registry.names import SCHEME, Name, parse, require_alias, require_name

WRONG = ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a..b", ".a", "a.", "Medical", "a b", "a\n", "é", "x" * 65, "-a"]


def test_names() -> None:
    assert parse("models:/medical/3") == Name("medical", version=3) == parse("medical/3")
    assert parse("models:/medical-qa.v2@champion") == Name("medical-qa.v2", alias="champion")


@pytest.mark.parametrize("name", WRONG)
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(ModelError, match="is no name of a model: small letters"):
        require_name(name)
    with pytest.raises(ModelError):
        parse(f"models:/{name}/3")
    with pytest.raises(ValueError, match="register_as"):
        OutputConfig(dir="x", register_as=name)


@pytest.mark.parametrize("alias", [*WRONG, "3", "3a", "a.b"])
def test_a_path_is_no_alias(alias: str) -> None:
    with pytest.raises(ModelError, match="is no alias: small letters"):
        require_alias(alias)
    with pytest.raises(ModelError):
        parse(f"models:/medical@{alias}")


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "03", "3/4", "../3", "³", "9999999999", "latest"])
def test_which_version(version: str) -> None:
    with pytest.raises(ModelError, match=r"say which version: models:/medical/3, or models:/medical@champion$"):
        parse(f"models:/medical/{version}")


@given(st.text())
def test_what_is_accepted_is_one_folder_below_the_root(text: str) -> None:
    try:
        found = parse(SCHEME + text)
    except ModelError:
        return
    assert found.name.isascii() and not set(found.name) & set("/\\:") and not found.name.startswith(".")
    assert ".." not in found.name and found.name == found.name.lower()
