"""Rules for what is not one to one in the configs of LLaMA-Factory."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.data.dataset_info import FILE, DataSets
from luthier.errors import DataError
from luthier.migrate import trainer
from luthier.migrate.base import Draft, Refused
from luthier.migrate.templates import own_template


def method(draft: Draft) -> None:
    """What is learnt: the stage, unless pref_loss or train_on_prompt say otherwise."""
    stage, stages = draft.text("stage"), draft.table.words["stages"]
    if stage is None or stage not in stages:
        raise Refused("stage", f"must be one of {', '.join(stages)}")
    learnt, note = stages[stage], ""
    if stage == "dpo" and draft.value("pref_loss") in ("orpo", "simpo"):
        learnt = draft.value("pref_loss")
        draft.say("mapped", "pref_loss", "", "objective.type")
    if stage == "sft" and draft.value("train_on_prompt") is True:
        learnt = "pretrain"
        note = "every token of the conversation is learnt, those between turns too"
        draft.say("changed", "train_on_prompt", note, "objective.type")
    draft.say("not needed", "train_on_prompt", "only answers are learnt")
    if stage == "rm":
        note = (
            "saved as sequence classification with one label, which transformers loads; their value_head is not written"
        )
    draft.facts["objective"] = learnt
    draft.map("stage", "objective.type", learnt, note, changed=bool(note))
    if learnt in ("dpo", "simpo") and draft.asked("pref_ftx"):
        draft.map("pref_ftx", "objective.sft_weight", draft.number("pref_ftx"))
    elif learnt in ("orpo", "kto") and draft.asked("pref_ftx") and draft.number("pref_ftx"):
        raise Refused("pref_ftx", f"objective: {learnt} has no further loss of the better answer")
    draft.say("not needed", "pref_ftx" if "pref_ftx" not in draft.lines else (), "without effect in this stage")


def adapter(draft: Draft) -> None:
    """Which weights are trained: the type, on a quantised base or not."""
    kind, bits = draft.text("finetuning_type"), draft.value("quantization_bit")
    if kind not in ("lora", "oft", "freeze", "full"):
        raise Refused("finetuning_type", "must be lora, oft, freeze or full")
    if bits is not None and kind != "lora":
        raise Refused("quantization_bit", "only LoRA trains on a quantised base here; write finetuning_type: lora")
    if bits not in (None, 4, 8):
        raise Refused("quantization_bit", "must be 4 or 8")
    kind = "qlora" if bits else kind
    draft.facts["adapter"] = kind
    draft.map("finetuning_type", "adapter.type", kind)
    if bits:
        draft.map("quantization_bit", "adapter.bits", bits)
    thin = kind in ("lora", "qlora")
    if kind == "oft" and draft.asked("oft_target") and not draft.asked("lora_target"):
        draft.map(
            "oft_target", "adapter.target_modules", _targets(draft, "oft_target"), "they do not read it", changed=True
        )
    if (thin or kind == "oft") and draft.asked("lora_target"):
        draft.map("lora_target", "adapter.target_modules", _targets(draft, "lora_target"))
    if thin and draft.asked("additional_target"):
        draft.map("additional_target", "adapter.modules_to_save", draft.names("additional_target"))
    elif kind == "oft" and draft.asked("additional_target"):
        raise Refused("additional_target", "OFT trains nothing besides here; LoRA does")
    if thin and draft.asked("lora_dropout"):
        trainer.dropout(draft, "stage", still=draft.value("stage") in ("dpo", "kto"))
    unread = [k for k in ("lora_target", "oft_target", "additional_target", "lora_dropout") if k not in draft.lines]
    draft.say("not needed", unread, f"not read with finetuning_type: {draft.value('finetuning_type')}")


def _targets(draft: Draft, key: str) -> str | list[str]:
    names = draft.names(key)
    return "all-linear" if names == ["all"] else names


def freeze(draft: Draft) -> None:
    """Which layers and modules are trained."""
    keys = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")
    if draft.facts.get("adapter") != "freeze":
        draft.say("not needed", keys, "matters only with finetuning_type: freeze")
        return
    layers = draft.whole(keys[0])
    draft.map(keys[0], "adapter.last_layers" if layers > 0 else "adapter.first_layers", abs(layers))
    if draft.names(keys[1]) != ["all"]:
        raise Refused(keys[1], "whole layers are trained; name modules of all layers in adapter.modules")
    draft.say("not needed", keys[1], "whole layers are trained")
    if draft.asked(keys[2]):
        draft.map(keys[2], "adapter.modules", [f"*{name}*" for name in draft.names(keys[2])])


def model(draft: Draft) -> None:
    """The model, or the adapter on it that training goes on with."""
    key, path = "adapter_name_or_path", draft.text("model_name_or_path")
    if path is None:
        raise Refused("model_name_or_path", "is required: the model to start from")
    if not draft.asked(key):
        draft.map("model_name_or_path", "model.path", path)
        draft.say("not needed", "create_new_adapter", "there is no adapter yet")
        return
    adapters = draft.names(key)
    if len(adapters) != 1 or draft.value("create_new_adapter") is True:
        raise Refused(key, "merge them first (luthier models merge FOLDER -o MERGED), and name the result as the model")
    base = _base(Path(adapters[0]).expanduser() / "adapter_config.json")
    if base is not None and base != path:
        raise Refused(key, f"stands on {base}, not on {path}; drop one of both keys")
    differs = ""
    if draft.facts.get("objective") in ("dpo", "kto", "ppo"):
        differs = "the reference is the model with this adapter, theirs the model without"
    note = f"training goes on with this adapter, in its own shape{'; ' if differs else ''}{differs}"
    draft.map(key, "model.path", adapters[0], note, changed=True)
    draft.say("not needed", ("model_name_or_path", "create_new_adapter"), "the adapter names the model it stands on")


def _base(file: Path) -> str | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def templates(draft: Draft) -> None:
    """The model's own chat template in place of a template by name."""
    name, think = draft.text("template"), draft.value("enable_thinking")
    if draft.facts.get("objective") == "pretrain" and draft.value("stage") == "pt":
        draft.say("not needed", ("template", "enable_thinking"), "text is learnt as it is")
        return
    if name is not None:
        note = own_template(draft, "template", name, draft.text("model_name_or_path") or "")
        if name in draft.table.words["thinking"]:
            note += "; no empty thought is put before answers that have none, unless it writes one"
        draft.say("changed", "template", note)
    if think is not None:
        note = "a variable of the chat template, if it has one; answers are learnt as the rows have them"
        draft.map("enable_thinking", "model.template_options", {"enable_thinking": think}, note, changed=True)


def data(draft: Draft) -> None:
    """Names of data sets as files."""
    folder = draft.value("dataset_dir")
    if not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:"):
        raise Refused("dataset_dir", "must be a folder on this machine with a dataset_info.json; download it first")
    try:
        sets = DataSets.read(Path(folder) / FILE, str(draft.value("stage")))
    except DataError as error:
        raise Refused("dataset_dir", str(error)) from None
    if not draft.asked("dataset"):
        raise Refused(
            "dataset",
            "is required to train: names of dataset_info.json with commas between (to talk to a model: luthier chat)",
        )
    _sources(draft, sets, "dataset", "data.train")
    draft.say("mapped", "dataset_dir", f"read from {sets.file}", "data.train")
    draft.say("mapped", "max_samples", "the first rows of each data set", "data.train")
    if draft.asked("eval_dataset"):
        _sources(draft, sets, "eval_dataset", "data.held_out")
        draft.say("not needed", "val_size", "eval_dataset holds the held-out rows")
        return
    trainer.held_out(draft, "val_size", "eval_dataset")


def _sources(draft: Draft, sets: DataSets, key: str, ours: str) -> None:
    most = draft.whole("max_samples") if draft.asked("max_samples") else None
    try:
        found = [sets.sources(name, most=most) for name in draft.names(key)]
    except DataError as error:
        raise Refused(key, str(error)) from None
    draft.put(ours, [source for sources, _ in found for source in sources])
    notes = [note for _, more in found for note in more]
    draft.say("changed" if notes else "mapped", key, "; ".join(notes), ours)


def lengths(draft: Draft) -> None:
    """Longest sequences, what happens to longer ones, and packing."""
    draft.put("data.max_length", draft.whole("cutoff_len"))
    text, packing = draft.value("stage") == "pt", draft.value("packing")
    packed = draft.value("neat_packing") is True or (text if packing is None else packing is True)
    over = "split" if text and packed else "truncate"
    draft.put("data.over_length", over)
    notes = draft.table.words["lengths"]
    note = notes[over] + (f"; {notes['packs']}" if packed and packing is None else "")  # stage pt packs unasked
    draft.say("changed", "cutoff_len", note, "data.max_length", "data.over_length", "data.bad_rows")
    if packed:
        draft.say("changed", ("packing", "neat_packing"), notes["packs"], "train.batch_size")
    draft.say("not needed", () if packed else ("packing", "neat_packing"), "a layout, which changes nothing here")


def recomputation(draft: Draft) -> None:
    """They recompute activations unless told not to."""
    keys = ("disable_gradient_checkpointing", "gradient_checkpointing")
    on = draft.value(keys[0]) is not True or draft.value(keys[1]) is True
    draft.map(keys, "train.gradient_checkpointing", on, "saves memory, and changes nothing that is learnt")


def judge(draft: Draft) -> None:
    """What judges the answers of PPO."""
    keys = ("reward_model", "reward_model_type")
    if draft.facts.get("objective") != "ppo":
        draft.say("not needed", keys, "matters only with stage: ppo")
        return
    place = draft.value("reward_model")
    theirs = isinstance(place, str) and any(
        (Path(place) / f"value_head.{end}").exists() for end in ("safetensors", "bin")
    )
    if not isinstance(place, str) or theirs or draft.value("reward_model_type") == "api":
        raise Refused(
            "reward_model",
            "must be a model with one label, as `stage: rm` trains it here; their value_head is not read",
        )
    draft.put("objective.samples", 1)
    draft.put("objective.beta", 0.2)
    note = "read as sequence classification with one label; one answer a prompt, distance weighed by beta 0.2"
    draft.map(keys, "objective.rewards", [{"type": "model", "path": place}], note, changed=True)


def reference(draft: Draft) -> None:
    """The reference is the model that training starts from."""
    if draft.asked("ref_model") and draft.value("ref_model") != draft.value("model_name_or_path"):
        raise Refused(
            "ref_model", "the reference is the model that training starts from; drop the key if that is meant"
        )
    draft.say("not needed", "ref_model", "the reference is the model that training starts from")
