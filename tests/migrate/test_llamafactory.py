"""What the keys of LLaMA-Factory mean here, one by one, and that no key is ever absent from the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.config import parse_config
from luthier.errors import ConfigError
from luthier.migrate.base import UNREAD, table
from luthier.migrate.tools import Translation, read_run, recognised, translation

Make = Callable[..., Translation]


def at(found: Translation, path: str) -> Any:
    """What the translation writes there."""
    value: Any = found.tree
    for key in path.split("."):
        value = value[key] if isinstance(value, dict) else None
    return value


def line(found: Translation, key: str) -> tuple[str, str]:
    """What became of a key, and the note."""
    return next((one.outcome, one.note) for one in found.lines if one.key == key)


def test_a_usual_config(llamafactory: Make, tiny: Path) -> None:
    found = llamafactory(bf16=True, save_steps=10, plot_loss=True, resume_from_checkpoint=None)
    assert found.tree == {
        "model": {"path": str(tiny)},
        "data": {
            "train": [
                {
                    "path": "data/plain.json",
                    "format": "alpaca",
                    "columns": {"instruction": "instruction", "input": "input", "output": "output"},
                }
            ],
            "held_out": 0.0,
            "max_length": 128,
            "over_length": "truncate",
            "bad_rows": "drop",
        },
        "adapter": {"type": "lora", "target_modules": "all-linear", "rank": 4},
        "objective": {"type": "sft"},
        "train": {
            "learning_rate": 1e-3, "batch_size": 4, "epochs": 2.0, "warmup_steps": 0.1, "schedule": "cosine",
            "optimizer": "adamw", "precision": "bf16", "save_every": "10 steps", "evaluate_every": None,
            "gradient_checkpointing": True, "seed": 42,
        },
        "output": {"dir": "saves/run", "final": "last"},
    }  # fmt: skip
    config = found.config()
    assert config.train.learning_rate == 1e-3 and config.adapter.type == "lora"
    assert parse_config(yaml.safe_load(found.to_yaml())) == config, "the file is the config"
    assert line(found, "ddp_timeout") == ("not needed", "processes are started by luthier train --devices N")


def test_what_the_file_does_not_say_is_what_they_do(tiny: Path, rows: Path) -> None:
    """Their defaults, not ours."""
    tree = {"model_name_or_path": str(tiny), "dataset": "plain", "output_dir": "run", "dataset_dir": str(rows)}
    found = translation("llamafactory", tree, source="lf.yaml")
    train = found.config().train
    assert (train.learning_rate, train.epochs, train.batch_size, train.warmup_steps, train.seed) == (5e-5, 3, 8, 0, 42)
    assert (train.schedule.type, str(train.save_every), train.evaluate_every) == ("linear", "500 steps", None)
    assert train.gradient_checkpointing is True and at(found, "data.max_length") == 2048
    assert line(found, "learning_rate")[0] == line(found, "save_total_limit")[0] == "default"


MEANINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lora_alpha": 32, "lora_dropout": 0.1}, {"adapter.alpha": 32, "adapter.dropout": 0.1}),
    ({"lora_target": "q_proj, v_proj"}, {"adapter.target_modules": ["q_proj", "v_proj"]}),
    ({"additional_target": "embed_tokens,lm_head"}, {"adapter.modules_to_save": ["embed_tokens", "lm_head"]}),
    ({"use_rslora": True, "use_dora": True}, {"adapter.use_rslora": True, "adapter.use_dora": True}),
    ({"loraplus_lr_ratio": 16.0}, {"adapter.loraplus_lr_ratio": 16.0}),
    ({"pissa_init": True}, {"adapter.init_lora_weights": "pissa"}),
    ({"quantization_bit": 4}, {"adapter.type": "qlora", "adapter.bits": 4, "adapter.rank": 4}),
    ({"quantization_bit": 8, "quantization_method": "bnb"}, {"adapter.type": "qlora", "adapter.bits": 8}),
    ({"finetuning_type": "full"}, {"adapter": {"type": "full"}}),
    ({"finetuning_type": "freeze"}, {"adapter": {"type": "freeze", "last_layers": 2}}),
    ({"finetuning_type": "freeze", "freeze_trainable_layers": -1, "freeze_extra_modules": "embed_tokens,norm"},
     {"adapter": {"type": "freeze", "first_layers": 1, "modules": ["*embed_tokens*", "*norm*"]}}),
    ({"finetuning_type": "oft", "oft_block_size": 8}, {"adapter.type": "oft", "adapter.oft_block_size": 8}),
    ({"train_on_prompt": True}, {"objective.type": "pretrain"}),
    ({"neftune_noise_alpha": 5}, {"objective.neftune_noise_alpha": 5.0}),
    ({"label_smoothing_factor": 0.1}, {"objective.label_smoothing": 0.1}),
    ({"stage": "pt", "dataset": "texts"}, {"objective": {"type": "pretrain"}, "data.over_length": "split"}),
    ({"stage": "pt", "dataset": "texts", "packing": False}, {"data.over_length": "truncate"}),
    ({"stage": "rm", "dataset": "pairs"}, {"objective": {"type": "reward"}}),
    ({"stage": "kto", "dataset": "verdicts", "pref_beta": 0.2, "kto_rejected_weight": 0.5},
     {"objective": {"type": "kto", "beta": 0.2, "undesirable_weight": 0.5}}),
    ({"stage": "dpo", "dataset": "pairs"}, {"objective": {"type": "dpo", "beta": 0.1, "loss_type": "sigmoid"}}),
    ({"stage": "dpo", "dataset": "pairs", "pref_loss": "ipo", "pref_ftx": 0.5, "pref_beta": 0.3},
     {"objective": {"type": "dpo", "loss_type": "ipo", "sft_weight": 0.5, "beta": 0.3}}),
    ({"stage": "dpo", "dataset": "pairs", "dpo_label_smoothing": 0.1}, {"objective.label_smoothing": 0.1}),
    ({"stage": "dpo", "dataset": "pairs", "pref_loss": "orpo"}, {"objective": {"type": "orpo", "beta": 0.1}}),
    ({"stage": "dpo", "dataset": "pairs", "pref_loss": "simpo"},
     {"objective": {"type": "simpo", "beta": 0.1, "gamma": 0.5}}),
    ({"stage": "dpo", "dataset": "pairs", "lora_dropout": 0.1}, {"adapter.dropout": 0.0}),
    ({"max_steps": 7}, {"train.max_steps": 7, "train.epochs": 1_000_000}),
    ({"warmup_steps": 20, "warmup_ratio": 0.1}, {"train.warmup_steps": 20.0}),
    ({"lr_scheduler_type": "constant"}, {"train.schedule": "constant", "train.warmup_steps": 0}),
    ({"lr_scheduler_type": "constant_with_warmup"}, {"train.schedule": "constant", "train.warmup_steps": 0.1}),
    ({"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
     {"train.schedule": {"type": "cosine-restarts", "cycles": 3}}),
    ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}},
     {"train.schedule": {"type": "cosine", "minimum": 0.1}}),
    ({"lr_scheduler_type": "polynomial"}, {"train.schedule": {"type": "polynomial", "power": 1.0, "minimum": 1e-4}}),
    ({"lr_scheduler_type": "warmup_stable_decay"},
     {"train.schedule": {"type": "wsd", "decay": 2 / 3, "shape": "cosine", "minimum": 0.0}}),
    ({"optim": "adamw_bnb_8bit"}, {"train.optimizer": "adamw-8bit"}),
    ({"optim": "adafactor"}, {"train.optimizer": "adafactor"}),
    ({"optim": "lion_32bit"}, {"train.optimizer": {"type": "lion", "betas": [0.9, 0.999]}}),
    ({"adam_beta2": 0.95, "adam_epsilon": "1e-6"},
     {"train.optimizer": {"type": "adamw", "betas": [0.9, 0.95], "eps": 1e-6}}),
    ({"finetuning_type": "full", "use_galore": True, "galore_rank": 32},
     {"train.optimizer": {"type": "galore", "rank": 32, "scale": 2.0, "eps": 1e-8}}),
    ({"finetuning_type": "full", "use_apollo": True}, {"train.optimizer.scale": 32.0, "train.optimizer.rank": 16}),
    ({"finetuning_type": "full", "use_badam": True, "badam_switch_interval": 20},
     {"train.optimizer": {"type": "badam", "switch_mode": "ascending", "switch_block_every": 20}}),
    ({"finetuning_type": "full", "use_muon": True}, {"train.optimizer": "muon"}),
    ({"max_grad_norm": 0.0}, {"train.max_grad_norm": None}),
    ({"fp16": True}, {"train.precision": "fp16"}),
    ({"pure_bf16": True}, {"train.precision": "bf16", "model.dtype": "bfloat16"}),
    ({"disable_gradient_checkpointing": True}, {"train.gradient_checkpointing": False}),
    ({"save_strategy": "epoch"}, {"train.save_every": "1 epoch"}),
    ({"save_strategy": "no"}, {"train.save_every": None}),
    ({"save_steps": 0.25}, {"train.save_every": "0.5 epochs"}),
    ({"save_total_limit": 5}, {"output.keep": 5}),
    ({"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 5},
     {"data.held_out": 0.1, "train.evaluate_every": "5 steps"}),
    ({"eval_strategy": "steps"}, {"train.evaluate_every": "1 step"}),
    ({"load_best_model_at_end": True}, {"output.final": "best"}),
    ({"report_to": "tensorboard"}, {"output.trackers": ["tensorboard"]}),
    ({"model_revision": "v2"}, {"model.revision": "v2"}),
    ({"enable_thinking": False}, {"model.template_options": {"enable_thinking": False}}),
    ({"stage": "ppo", "reward_model": "saves/judge", "ppo_epochs": 2, "max_new_tokens": 64},
     {"objective": {"type": "ppo", "samples": 1, "beta": 0.2, "updates": 2, "max_new_tokens": 64, "temperature": 0.95,
                    "rewards": [{"type": "model", "path": "saves/judge"}]}}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), MEANINGS, ids=[", ".join(map(str, c)) for c, _ in MEANINGS])
def test_meanings(llamafactory: Make, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = llamafactory(**changes)
    assert {path: at(found, path) for path in expected} == expected
    found.config()
    for key in changes:
        assert line(found, key)[0] in ("mapped", "changed", "not needed"), key


def test_what_changes_in_meaning_is_said(llamafactory: Make) -> None:
    found = llamafactory(packing=True, trust_remote_code=True, template="qwen", val_size=0.2, double_quantization=False)
    said = {one.key: one.note for one in found.outcome("changed")}
    assert "raise it by as many rows as fit" in said["packing"] and "never see each other" in said["packing"]
    assert "lose their end" in said["cutoff_len"] and "never runs" in said["trust_remote_code"]
    assert said["template"] == "the model's own chat template, which writes <|im_start|> too"
    assert "by each row's content" in said["val_size"]
    assert line(found, "per_device_train_batch_size") == (
        "mapped",
        "2 x 2 x 1 device = 4 rows per step over all devices",
    )
    assert "raise it" in line(llamafactory(stage="pt", dataset="texts"), "cutoff_len")[1], "stage pt packs unasked"
    assert "switch dropout off" in line(llamafactory(stage="dpo", dataset="pairs", lora_dropout=0.1), "lora_dropout")[1]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"stage": "grpo"}, "stage", "must be one of pt, sft"),
    ({"finetuning_type": "lorra"}, "finetuning_type", "must be lora, oft, freeze or full"),
    ({"template": "llama3"}, "template", "writes <|start_header_id|>, but the chat template of"),
    ({"template": "empty"}, "template", "writes nothing around turns"),
    ({"template": "qwenn"}, "template", "has no template 'qwenn'"),
    ({"pref_loss": "kto_pair", "stage": "dpo", "dataset": "pairs"}, "pref_loss", "sigmoid, hinge, ipo"),
    ({"pref_loss": "orpo", "pref_ftx": 0.1, "stage": "dpo", "dataset": "pairs"}, "pref_ftx", "no further loss"),
    ({"pref_bco_weight": 0.1}, "pref_bco_weight", "no such term"),
    ({"mask_history": True}, "mask_history", "train: false"),
    ({"deepspeed": "ds_z3_config.json"}, "deepspeed", "KEY=null on the command line"),
    ({"quantization_bit": 3}, "quantization_bit", "must be 4 or 8"),
    ({"quantization_bit": 4, "finetuning_type": "full"}, "quantization_bit", "write finetuning_type: lora"),
    ({"quantization_bit": 4, "quantization_method": "hqq"}, "quantization_method", "bitsandbytes"),
    ({"use_adam_mini": True}, "use_adam_mini", "adamw-8bit"),
    ({"use_dft_loss": True}, "use_dft_loss", "objective sft"),
    ({"lr_scheduler_type": "inverse_sqrt"}, "lr_scheduler_type", "what can be translated: linear"),
    ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "lr_scheduler_kwargs", "nothing like num_cycles"),
    ({"optim": "sgd"}, "optim", "what can be translated: adamw_torch"),
    ({"bf16": True, "fp16": True}, "fp16", "bf16 is on too"),
    ({"val_size": 100}, "val_size", "a share below 1"),
    ({"report_to": "wandb"}, "report_to", "none or tensorboard"),
    ({"learning_rate": "fast", "lr_scheduler_type": "polynomial"}, "learning_rate", "must be a number, not 'fast'"),
    ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps", "must be a whole number"),
    ({"output_dir": "${oc.env:HOME}/run"}, "output_dir", "write the value itself"),
    ({"do_train": False}, "do_train", "luthier evaluate RUN"),
    ({"export_dir": "merged"}, "export_dir", "luthier models merge"),
    ({"resume_from_checkpoint": "saves/checkpoint-5"}, "resume_from_checkpoint", "cannot be resumed"),
    ({"ref_model": "another"}, "ref_model", "training starts from"),
    ({"stage": "ppo"}, "reward_model", "one label"),
    ({"adapter_name_or_path": "a,b"}, "adapter_name_or_path", "luthier models merge"),
    ({"freeze_trainable_modules": "mlp", "finetuning_type": "freeze"}, "freeze_trainable_modules", "whole layers"),
    ({"cutoff_lenn": 5}, "cutoff_lenn", "did you mean 'cutoff_len'?"),
    ({"neftune_noise_alpha": 5, "stage": "dpo", "dataset": "pairs"}, "neftune_noise_alpha", "sft and pretrain"),
    ({"model_name_or_path": None}, "model_name_or_path", "is required"),
    ({"dataset": None}, "dataset", "is required"),
]


@pytest.mark.parametrize(("changes", "key", "said"), REFUSED, ids=[", ".join(map(str, c)) for c, _, _ in REFUSED])
def test_refused(llamafactory: Make, changes: dict[str, Any], key: str, said: str) -> None:
    found = llamafactory(**changes)
    outcome, note = line(found, key)
    assert outcome == "refused" and said in note
    with pytest.raises(ConfigError, match=rf"(?s)lf\.yaml.*{key}: "):
        found.config()


CONFIGS = sorted((Path(__file__).parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_files_in_the_style_of_their_examples(rows: Path, tiny: Path, path: Path) -> None:
    """Each is translated whole, or what its first line names is refused; the file that is written is the config."""
    text = path.read_text(encoding="utf-8").replace("MODEL", str(tiny))
    expected = text.splitlines()[0].partition("# refused: ")[2]
    Path("lf.yaml").write_text(text, encoding="utf-8")
    tree = yaml.safe_load(text)
    assert recognised(tree, "lf.yaml") == "llamafactory"
    found = translation("llamafactory", tree, source="lf.yaml")
    told = [one.key for one in found.outcome("refused") if one.note != UNREAD]
    assert sorted(told) == sorted(expected.split(", ") if expected else [])
    assert {one.key for one in found.lines} >= set(tree)
    if not expected:
        config, _ = read_run("lf.yaml", [])
        assert parse_config(yaml.safe_load(found.to_yaml())) == config
        assert config.train.batch_size == 4 and config.data.max_length == 512 and config.data.train[0].limit == 12


def test_values_that_are_not_valid_here_are_told_by_their_keys(llamafactory: Make) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.rank \(from lora_rank\)") as error:
        llamafactory(lora_rank=0, learning_rate=-1.0).config()
    assert "train.learning_rate (from learning_rate)" in str(error.value)


def test_going_on_with_an_adapter(llamafactory: Make, tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny)}))
    found = llamafactory(adapter_name_or_path=str(folder), stage="dpo", dataset="pairs")
    assert at(found, "model.path") == str(folder)
    assert "the reference is the model with this adapter" in line(found, "adapter_name_or_path")[1]
    other = llamafactory(adapter_name_or_path=str(folder), model_name_or_path="another/model")
    assert line(other, "adapter_name_or_path")[0] == "refused"
    new = llamafactory(adapter_name_or_path=str(folder), create_new_adapter=True)
    assert "merge them first" in line(new, "adapter_name_or_path")[1]


def test_secrets_are_shown_to_nobody(llamafactory: Make) -> None:
    found = llamafactory(hf_hub_token="hf_abc", swanlab_api_key="key_abc", swanlab_lark_secret="s_abc")
    shown = found.to_yaml() + "".join(map(str, found.lines))
    assert "abc" not in shown and "(not shown)" in shown


def test_devices_multiply_the_batch(rows: Path, tiny: Path) -> None:
    tree = {"model_name_or_path": str(tiny), "dataset": "plain", "output_dir": "run", "per_device_train_batch_size": 3}
    found = translation("llamafactory", tree, source="lf.yaml", devices=4)
    assert at(found, "train.batch_size") == 12
    assert line(found, "per_device_train_batch_size")[1] == "3 x 1 x 4 devices = 12 rows per step over all devices"


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(0, 2), st.text(max_size=8), st.just("all"),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_key_is_ever_absent_from_the_report(rows: Path, data: st.DataObject) -> None:
    """Whatever the values, each key that is given is in the report once, and a config or a clear error comes out."""
    keys = st.one_of(st.sampled_from(table("llamafactory").keys), st.text(min_size=1, max_size=6))
    tree = data.draw(st.dictionaries(keys, VALUES, max_size=12))
    found = translation("llamafactory", {"dataset": "plain", "model_name_or_path": "m"} | tree, source="lf.yaml")
    told = [one.key for one in found.lines]
    assert set(tree) <= set(told) and len(told) == len(set(told))
    assert all(one.note or one.to for one in found.lines)
    try:
        found.config()
    except ConfigError as error:
        assert error.problems and all(problem.message for problem in error.problems)
