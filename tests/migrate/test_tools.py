"""Which tool a config is for, and how overrides reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.errors import ConfigError
from luthier.migrate.base import table
from luthier.migrate.templates import own_template
from luthier.migrate.tools import read_run, recognised, translation
from tests.conftest import CHATML
from tests.migrate.conftest import BASIC


@pytest.mark.parametrize(
    ("tree", "tool"),
    [
        ({"model_name_or_path": "m", "stage": "sft", "dataset": "d"}, "llamafactory"),
        ({"model_name_or_path": "m", "cutoff_len": 8}, "llamafactory"),
        ({"base_model": "m", "datasets": [], "micro_batch_size": 1}, "axolotl"),
        ({"base_model": "m", "adapter": "lora", "sequence_len": 8}, "axolotl"),
        ({"model_name_or_path": "m", "dataset_name": "d", "use_peft": True}, "trl"),
        ({"model": "m", "data": {}, "stage": "sft"}, None),
        ({"model": "m"}, None),
        ({"compute_environment": "LOCAL_MACHINE"}, None),
        ({"learning_rate": 1}, None),
        ({}, None),
    ],
)
def test_recognised(tree: dict[str, Any], tool: str | None) -> None:
    assert recognised(tree, "x.yaml") == tool


def test_what_is_not_decided_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"has keys of .* \(stage\).*--from llamafactory \| axolotl \| trl"):
        recognised({"stage": "sft", "base_model": "m"}, "x.yaml")
    with pytest.raises(ConfigError, match="experimental trainer of LLaMA-Factory"):
        recognised({"model": "m", "train_dataset": "d.yaml", "dist_config": {}}, "x.yaml")
    with pytest.raises(ConfigError, match=r"TRL's command says what is learnt.*--method sft \| dpo"):
        translation("trl", {"model_name_or_path": "m"}, source="x.yaml")


def write(tree: dict[str, Any]) -> str:
    """The file of a config."""
    Path("lf.yaml").write_text(yaml.safe_dump(tree))
    return "lf.yaml"


def test_overrides_name_keys_of_the_file_or_of_ours(rows: Path, tiny: Path) -> None:
    path = write({"model_name_or_path": str(tiny)} | BASIC)
    config, found = read_run(path, ["learning_rate=5e-4", "--lora_rank=2", "train.seed=7", "output=elsewhere"])
    assert (config.train.learning_rate, config.train.seed, config.output.dir) == (5e-4, 7, "elsewhere")
    assert found is not None and found.tree["adapter"]["rank"] == 2
    with pytest.raises(ConfigError, match=r"deepspeed: .*KEY=null"):
        read_run(path, ["deepspeed=z3.json"])
    assert read_run(write({"model_name_or_path": str(tiny), "deepspeed": "z3.json"} | BASIC), ["deepspeed=null"])[0]
    path = write({"model_name_or_path": str(tiny)} | BASIC)
    assert read_run(path, [], devices=3)[0].train.batch_size == 12


def test_a_config_of_our_own_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("{model: m, data: {train: [rows.jsonl]}, output: run}")
    config, found = read_run(str(path), ["train.seed=3"])
    assert found is None and config.train.seed == 3
    path.write_text("{modle: m, data: {train: [rows.jsonl]}, output: run}")
    with pytest.raises(ConfigError, match=r"modle: unknown key; did you mean 'model'"):
        read_run(str(path), [])


def test_templates_of_models(tiny: Path, tmp_path: Path) -> None:
    """Looked at as they are rendered: some write their marks piece by piece."""
    from luthier.migrate.base import Draft, Refused

    draft = Draft(table("llamafactory"), {}, {})
    assert "writes <|im_start|> too" in own_template(draft, "template", "qwen", str(tiny))
    assert "not on this machine" in own_template(draft, "template", "qwen", "somebody/model")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Refused, match="does not"):
        own_template(draft, "template", "qwen", str(folder))
    pieces = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(pieces)
    assert "<|user|> too" in own_template(draft, "template", "phi4_mini", str(folder))
    (folder / "chat_template.jinja").write_text(CHATML + "{{ raise_exception('no') }}")
    assert "<|im_start|> too" in own_template(draft, "template", "qwen", str(folder)), "else its source is looked at"
