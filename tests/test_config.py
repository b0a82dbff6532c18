"""Reading a config: what is accepted, and what every mistake is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luthier.config import RunConfig, parse_config, read_config
from luthier.errors import ConfigError

SMALL: dict[str, Any] = {"model": "m", "data": {"train": ["rows.jsonl"]}, "output": "runs/x"}


def written(folder: Path, text: str, name: str = "c.yaml") -> Path:
    """A config file."""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_bare_values_and_mappings_say_the_same() -> None:
    long = {
        "model": {"path": "m"},
        "data": {"train": {"path": "rows.jsonl"}},
        "adapter": {"type": "lora"},
        "output": {"dir": "runs/x"},
    }
    assert parse_config(SMALL) == parse_config(long)


def test_the_resolved_config_is_read_back_as_itself(tmp_path: Path) -> None:
    config = parse_config(
        SMALL | {"train": {"evaluate_every": "2 epochs", "optimizer": {"type": "adamw", "eps": 1e-6}}}
    )
    assert read_config(written(tmp_path, config.to_yaml())) == config
    assert read_config(written(tmp_path, json.dumps(config.model_dump(mode="json")), "c.json")) == config


@pytest.mark.parametrize(
    "override", ["train.learning_rate=1e-4", "--train.learning-rate=1e-4", "train.learning_rate=0.0001"]
)
def test_overrides(tmp_path: Path, override: str) -> None:
    file = written(tmp_path, yaml.safe_dump(SMALL))
    assert read_config(file, [override]).train.learning_rate == 1e-4


def test_an_override_goes_below_a_bare_section(tmp_path: Path) -> None:
    file = written(tmp_path, yaml.safe_dump(SMALL | {"adapter": "lora"}))
    config = read_config(file, ["adapter.rank=4", "model.dtype=float32", "output.keep=5"])
    assert config.adapter.model_dump()["rank"] == 4
    assert config.model.path == "m" and config.output.keep == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trian": {}}, "trian: unknown key; did you mean 'train'? allowed: adapter, data"),
        ({"train": {"lr": 1}}, "train.lr: unknown key; allowed: batch_size"),
        ({"train": {"batchsize": 1}}, "train.batchsize: unknown key; did you mean 'batch_size'?"),
        ({"adapter": "lroa"}, "adapter: unknown adapter 'lroa'; did you mean 'lora'? allowed: adalora, "),
        ({"adapter": {"type": "lora", "rnak": 8}}, "adapter.rnak: unknown key; did you mean 'rank'?"),
        ({"adapter": {"rank": 8}}, "does not say which adapter"),
        ({"adapter": {"type": "lora", "rank": 0}}, "adapter.rank: input should be greater than 0; given: 0"),
        ({"objective": "stf"}, "objective: unknown objective 'stf'; did you mean 'sft'?"),
        ({"train": {"epochs": "three"}}, "train.epochs: input should be a valid number"),
        ({"train": {"save_every": "3 weeks"}}, "train.save_every: '3 weeks' is not a duration; write '3 epochs'"),
        ({"train": {"schedule": "cosin"}}, "train.schedule: unknown schedule 'cosin'; did you mean 'cosine'?"),
        (
            {"train": {"precision": "fp64"}},
            "train.precision: input should be 'auto', 'fp32', 'bf16' or 'fp16'; given: 'fp64'",
        ),
        ({"data": {"train": []}}, "data.train: list should have at least 1 item"),
        ({"data": {"train": 5}}, "data.train: input should be a valid list"),
        ({"data": {"train": ["x"], "held_out": 1.5}}, "data.held_out: input should be less than 1; given: 1.5"),
        ({"model": None}, "model: input should be a valid dictionary"),
        ({"evaluate": {"metrics": ["bleu2"]}}, "evaluate.metrics.0: unknown metric 'bleu2'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(SMALL | change, source="c.yaml")
    assert said in str(error.value)
    assert str(error.value).startswith("c.yaml:")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"data": {"train": ["x"]}, "train": {"epochs": -1, "sed": 0}, "adapter": "x"})
    problems = [str(problem) for problem in error.value.problems]
    assert len(problems) >= 4
    assert "model: is required" in problems and "output: is required" in problems


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: a\nmodel: b\n", "line 2: the key 'model' is given twice"),
        ("train: {seed: 0, seed: 1}\n", "given twice"),
        ("model: [a\n", "not valid YAML"),
        ("- a\n", "a config is a mapping"),
        ("", "a config is a mapping"),
        ("model: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("1: x\n", "1: unknown key"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(written(tmp_path, text))
    assert said in str(error.value)


def test_yaml_may_merge_mappings(tmp_path: Path) -> None:
    text = "model: m\ndata: {train: x}\ntrain: {<<: {seed: 1, epochs: 2}, <<: {batch_size: 4}, seed: 3}\noutput: o\n"
    train = read_config(written(tmp_path, text)).train
    assert (train.seed, train.epochs, train.batch_size) == (3, 2.0, 4)


def test_json_twins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        read_config(written(tmp_path, '{"model": "a", "model": "b"}', "c.json"))
    with pytest.raises(ConfigError, match="cannot be read as text"):
        (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00model")
        read_config(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_config(tmp_path)


@pytest.mark.parametrize("override", ["train", "=3", "train.=3", "train.epochs.x=1", "model=[", "train..x=1"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    file = written(tmp_path, yaml.safe_dump(SMALL | {"train": {"epochs": 1.0}}))
    with pytest.raises(ConfigError):
        read_config(file, [override])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(RunConfig.model_fields)), values)
def test_any_value_of_a_section_is_read_or_refused(section: str, value: object) -> None:
    """Whatever stands in a config, the answer is a config or a ConfigError that names the section."""
    try:
        parse_config(SMALL | {section: value})
    except ConfigError as error:
        assert all(problem.path.startswith(section) for problem in error.problems)
