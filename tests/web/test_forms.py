"""Fields from the schema, and the text that they change: always what `luthier train` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field as Bound

from luthier import plugins
from luthier.config import parse_config, read_config, tree_of
from luthier.errors import ConfigError
from luthier.web import forms
from tests.house.source import ROOT

pytest.importorskip("ruamel.yaml")
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def every(text: str) -> list[forms.Field]:
    return [field for section in forms.sections() for field in forms.fields(section, text)]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_page_and_file_are_one(file: Path) -> None:
    """What a file says stands in the fields; fields that say it again, and say it anew, make the same config."""
    text = file.read_text(encoding="utf-8")
    said = [field for field in every(text) if field.value is not None]
    assert len(said) > 8 and not forms.problems(text)
    again, anew = text, ""
    for field in said:
        again = forms.changed(again, field.path, field.value)
    for field in sorted(said, key=lambda field: not field.path.endswith(".type")):
        anew = forms.changed(anew, field.path, field.value)
    for written in (again, anew):
        assert forms.parsed(written) == read_config(file)
    assert again.splitlines()[0] == text.splitlines()[0], "comments stay"


def test_fields_know_their_kind() -> None:
    found = {field.path: field for field in every("adapter: {type: lora, rank: auto}\ntrain: {optimizer: lion}")}
    assert found["adapter.type"].kind == "choice" and found["adapter.type"].options == plugins.names("adapter")
    assert found["adapter.rank"].value == "auto" and "adapter.bits" not in found
    assert found["train.optimizer.type"].value == "lion" and found["train.optimizer.betas"].kind == "value"
    assert (found["train.learning_rate"].kind, found["train.learning_rate"].low) == ("number", 0)
    assert found["train.batch_size"].whole and not found["train.epochs"].whole
    assert found["data.packing"].kind == "flag" and found["data.over_length"].options[0] == "error"
    assert "Peak" in found["train.learning_rate"].about


def test_a_plug_in_is_in_the_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kind, its keys, their help and their bounds, without a line of the board's."""
    monkeypatch.setitem(plugins.BUILT_IN["objective"], "bent", "tests.web.test_forms:Bent")
    plugins._table.cache_clear()
    forms.schema.cache_clear()
    try:
        found = {field.path: field for field in forms.fields("objective", "objective: bent")}
        assert "bent" in found["objective.type"].options and found["objective.strength"].high == 3
        assert found["objective.strength"].about == "How much it is bent."
    finally:
        monkeypatch.undo()
        plugins._table.cache_clear()
        forms.schema.cache_clear()


class Bent(plugins.Part):
    """An objective from elsewhere."""

    model_config = plugins.Part.model_config
    type: Literal["bent"] = "bent"
    strength: Annotated[int, Bound(ge=1, le=3)] = 1
    """How much it is bent."""


@pytest.mark.parametrize(
    ("before", "path", "value", "after"),
    [
        ("", "model.path", "m", {"model": "m"}),
        ("model: m", "model.dtype", "float32", {"model": {"path": "m", "dtype": "float32"}}),
        ("model: {path: m, dtype: float32}", "model.dtype", None, {"model": "m"}),
        ("model: m", "model.path", None, {}),
        ("adapter: lora", "adapter.rank", 4, {"adapter": {"type": "lora", "rank": 4}}),
        ("adapter: {type: lora, rank: 4}", "adapter.type", "full", {"adapter": "full"}),
        ("adapter: {type: lora, rank: 4}", "adapter.type", "lora", {"adapter": {"type": "lora", "rank": 4}}),
        ("train: {epochs: 2}", "train.optimizer.type", "lion", {"train": {"epochs": 2, "optimizer": "lion"}}),
        ("a: b: c", "model.path", "m", None),
    ],
)
def test_one_key_is_changed(before: str, path: str, value: Any, after: Any) -> None:
    changed = forms.changed(before, path, value)
    assert changed == before if after is None else forms.values(changed) == after


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("number", 3.0, 3), ("number", "3", 3), ("number", "", None),
        ("number", None, None), ("value", "[1, 2]", [1, 2]), ("value", "", None),
        ("lines", "a\n\nb", ["a", "b"]), ("flag", False, False),
    ],
)  # fmt: skip
def test_what_a_component_holds(kind: Any, given: Any, said: Any) -> None:
    assert forms.Field("x", kind, None, None, "", whole=True).said(given) == said


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a YAML value"):
        forms.Field("x", "value", None, None, "").said("[1, ")
    with pytest.raises(ConfigError, match="expected a whole number, got 'many'"):
        forms.Field("x", "number", None, None, "", whole=True).said("many")


def test_problems_are_sentences() -> None:
    assert any("output" in one and "required" in one for one in forms.problems("model: m"))
    assert forms.problems("[") and forms.problems("- a")


def test_rows_are_named_once() -> None:
    first = forms.with_rows(forms.FIRST, ["data/a.csv", "data/b.csv"])
    assert forms.values(first)["data"] == {"train": ["data/a.csv"]} and forms.with_rows(first, ["c.csv"]) == first
    assert forms.with_rows(forms.FIRST, []) == forms.FIRST


@settings(deadline=None, max_examples=60)
@given(st.text(), st.sampled_from(["model.path", "train.epochs", "adapter.type"]))
def test_no_text_breaks_it(text: str, path: str) -> None:
    """Whatever is typed: it stays, or says the new value."""
    changed = forms.changed(text, path, "x")
    assert changed == text or tree_of(changed)
    forms.problems(text)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["lora", "type", "m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "path", "rank", "x"]), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(["model", "data", "adapter", "objective", "train", "output"]), TREES))
def test_no_config_breaks_the_form(tree: dict[str, Any]) -> None:
    """Half a config is what a form is drawn from while it is typed."""
    text = forms.spelled(tree)
    assert {field.path for field in every(text)} >= {"model.path", "adapter.type", "train.epochs"}
    forms.with_rows(text, ["a.csv"])


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1))
def test_any_text_can_be_a_value(text: str) -> None:
    made = forms.changed("", "model.path", text)
    assert forms.values(made) == {"model": text}


def test_a_whole_config_is_made_of_fields() -> None:
    text = ""
    for path, value in (("model.path", "m"), ("data.train", ["a.csv"]), ("output.dir", "out"), ("train.epochs", 2)):
        text = forms.changed(text, path, value)
    assert forms.parsed(text) == parse_config(
        {"model": "m", "data": {"train": ["a.csv"]}, "output": "out", "train": {"epochs": 2}}
    )
