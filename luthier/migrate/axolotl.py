"""Rules for what is not one to one in the configs of Axolotl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.migrate import trainer
from luthier.migrate.base import Draft, Refused, near
from luthier.migrate.templates import own_template

OBJECTIVES = {"dpo": "dpo", "ipo": "dpo", "kto": "kto", "orpo": "orpo", "simpo": "simpo"}
PREFERENCES = ("dpo", "orpo", "simpo", "reward")


def method(draft: Draft) -> None:
    """What is learnt."""
    rl, keys = draft.text("rl"), ("rl", "reward_model", "train_on_inputs")
    if rl is not None and rl not in OBJECTIVES:
        raise Refused("rl", f"must be one of {', '.join(OBJECTIVES)}; online objectives: write objective: grpo")
    learnt = "reward" if draft.value("reward_model") is True else OBJECTIVES.get(str(rl), "sft")
    if learnt == "sft" and (draft.value("train_on_inputs") is True or _plain_text(draft)):
        learnt = "pretrain"
    draft.facts["objective"] = learnt
    draft.put("objective.type", learnt)
    if rl == "ipo":
        draft.put("objective.loss_type", "ipo")
    draft.say("mapped", keys, "", "objective.type")


def _plain_text(draft: Draft) -> bool:
    entries = draft.value("datasets") or draft.value("pretraining_dataset")
    first = entries[0] if isinstance(entries, list) and entries else {}
    kind = (
        first.get("type", "pretrain" if draft.asked("pretraining_dataset") else None) if isinstance(first, dict) else ""
    )
    return str(kind).split(".")[0].split(":")[0] in ("completion", "pretrain")


def adapter(draft: Draft) -> None:
    """LoRA on which base, or every weight."""
    kind = draft.value("adapter")
    if kind not in (None, "lora", "qlora"):
        raise Refused("adapter", "must be lora or qlora, or nothing for every weight")
    four, eight = (draft.value(f"load_in_{bits}bit") is True for bits in (4, 8))
    if kind is None and (four or eight):
        raise Refused("load_in_4bit" if four else "load_in_8bit", "only LoRA trains on a quantised base")
    if draft.asked("unfrozen_parameters"):
        raise Refused("unfrozen_parameters", "write adapter: {type: freeze, modules: [patterns of names]}")
    ours = "full" if kind is None else "qlora" if four or eight or kind == "qlora" else "lora"
    draft.facts["adapter_type"] = ours
    draft.put("adapter.type", ours)
    draft.say("mapped", "adapter", "", "adapter.type")
    if ours == "qlora":
        draft.put("adapter.bits", 8 if eight else 4)
    draft.say("mapped" if ours == "qlora" else "not needed", ("load_in_4bit", "load_in_8bit"), "", "adapter.bits")
    if ours != "full":
        _lora(draft)
    rest = ("lora_target_linear", "lora_target_modules", "lora_dropout", "peft_init_lora_weights")
    draft.say("not needed", [key for key in rest if key not in draft.lines], "without effect here")


def _lora(draft: Draft) -> None:
    targets = draft.value("lora_target_modules")
    if draft.value("lora_target_linear") is True:
        draft.map("lora_target_linear", "adapter.target_modules", "all-linear")
    elif isinstance(targets, list):
        draft.map("lora_target_modules", "adapter.target_modules", targets)
    elif targets is not None:
        raise Refused("lora_target_modules", "must be a list of names")
    if draft.asked("lora_dropout"):
        trainer.dropout(draft, "method", still=draft.facts.get("objective") not in ("sft", "pretrain"))
    start = draft.value("peft_init_lora_weights")
    if start in ("pissa", "olora", "eva", "orthogonal"):
        draft.map("peft_init_lora_weights", "adapter.init_lora_weights", start)
    elif start not in (None, True):
        raise Refused("peft_init_lora_weights", "must be pissa, olora, eva or orthogonal")


def model(draft: Draft) -> None:
    """The model, or the adapter on it that training goes on with."""
    if not draft.asked("base_model"):
        raise Refused("base_model", "is required: the model to start from")
    if draft.asked("lora_model_dir"):
        note = "training goes on with this adapter, in its own shape"
        draft.map("lora_model_dir", "model.path", draft.value("lora_model_dir"), note, changed=True)
        draft.say("not needed", "base_model", "the adapter names the model it stands on")
    else:
        draft.map("base_model", "model.path", draft.value("base_model"))


def templates(draft: Draft) -> None:
    """The model's own chat template, or a file."""
    name, source = draft.value("chat_template"), draft.value("chat_template_jinja")
    if source is not None:
        if not Path(str(source)).is_file():
            raise Refused("chat_template_jinja", "must be a file; write the template to one")
        draft.map("chat_template_jinja", "model.chat_template", source)
        draft.say("not needed", "chat_template", "chat_template_jinja is the template")
    elif name in (None, "tokenizer_default") or str(name).startswith("tokenizer_default_fallback_"):
        draft.say("not needed", "chat_template", "the model's own chat template is used")
    else:
        note = own_template(draft, "chat_template", str(name), str(draft.value("base_model")))
        draft.say("changed", "chat_template", note)


def data(draft: Draft) -> None:
    """Files of rows."""
    key = "datasets" if draft.asked("datasets") else "pretraining_dataset"
    if not draft.asked(key):
        raise Refused(key, "is required to train: a list of data sets, each with path and type")
    notes: list[str] = []
    draft.put("data.train", [s for entry in draft.entries(key) for s in _sources(draft, key, entry, notes)])
    draft.say("changed" if notes else "mapped", key, "; ".join(dict.fromkeys(notes)), "data.train")
    if draft.asked("test_datasets"):
        entries = draft.entries("test_datasets")
        draft.put("data.held_out", [s for entry in entries for s in _sources(draft, "test_datasets", entry, notes)])
        draft.say("mapped", "test_datasets", "", "data.held_out")
        draft.say("not needed", "val_set_size", "test_datasets holds the held-out rows")
        return
    trainer.held_out(draft, "val_set_size", "test_datasets")


def _sources(draft: Draft, key: str, entry: Any, notes: list[str]) -> list[dict[str, Any]]:
    """One data set as `data.train` has it."""
    known = draft.table.words["dataset_keys"]
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise Refused(key, "each data set needs a path")
    where = entry["path"]
    if unknown := sorted(name for name in entry if name not in known and entry[name] is not None):
        raise Refused(key, f"{where}: {unknown[0]} cannot be translated; {near(unknown[0], known)}")
    missing = "is not on this machine; download the data set and name its file in path"
    found = trainer.files_of(key, entry, missing)
    for name, allowed in (("split", (None, "train")), ("name", (None,)), ("shards", (None, 1))):
        if entry.get(name) not in allowed:
            raise Refused(key, f"{where}: {name} {entry[name]!r}: every row of a file is read")
    layout = _layout(draft, key, entry, notes)
    return [{"path": str(file)} | layout for file in found]


def _layout(draft: Draft, key: str, entry: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """`format` and `columns` of a data set."""
    kind, where, objective = entry.get("type"), entry["path"], draft.facts.get("objective")
    kind = "pretrain" if kind is None and key == "pretraining_dataset" else kind
    judged = "preference" if objective in PREFERENCES else "labelled" if objective == "kto" else None
    if isinstance(kind, dict):
        return _own(draft, key, entry, judged or "alpaca", notes)
    known = _type(draft, key, where, kind)
    plain = judged or known["format"]
    if str(kind).startswith("chatml."):
        notes.append("chatml: turns are written by the chat template, theirs are ChatML whatever the model")
    if known.get("columns"):
        return {"format": plain, "columns": known["columns"]}
    if plain == "alpaca":
        notes.append(
            "alpaca: questions are written by the chat template, theirs under headings such as ### Instruction"
        )
    if entry.get("roles_to_train") not in (None, ["assistant"], ["assistant", "gpt"], ["gpt", "assistant"]):
        raise Refused(key, f"{where}: roles_to_train: the assistant's turns are learnt")
    for name, allowed in (("train_on_eos", (None, "turn")), ("drop_system_message", (None, False)), ("roles", (None,))):
        if entry.get(name) not in allowed:
            raise Refused(key, f"{where}: {name} {entry[name]!r}: not so here")
    turns = entry.get("message_property_mappings") or {}
    turns = {"role": turns.get("role", entry.get("message_field_role")) or "role"} | {
        "content": turns.get("content", entry.get("message_field_content")) or "content"
    }
    if plain == "messages" and turns == {"role": "from", "content": "value"}:
        plain = "sharegpt"
    elif turns != {"role": "role", "content": "content"}:
        raise Refused(key, f"{where}: turns must have role and content, or from and value")
    if entry.get("message_field_training") not in (None, "train", "training", "weight"):
        raise Refused(key, f"{where}: message_field_training: name the key `train` in the rows")
    return {"format": plain} | _columns(plain, entry)


def _type(draft: Draft, key: str, where: str, kind: Any) -> dict[str, Any]:
    """The format, and columns of that name, of a type by its name."""
    words, name = draft.table.words, str(kind)
    if name in words["no_types"]:
        raise Refused(key, f"{where}: type {name}: {words['no_types'][name]}")
    if name not in words["types"]:
        raise Refused(key, f"{where}: type {kind!r} cannot be translated; one of {', '.join(words['types'])}")
    return dict(words["types"][name])


def _own(draft: Draft, key: str, entry: dict[str, Any], plain: str, notes: list[str]) -> dict[str, Any]:
    """`format` and `columns` of a data set whose type is the user's own."""
    given = {name: said for name, said in entry["type"].items() if said}
    if "system_prompt" in given:
        raise Refused(key, f"{entry['path']}: type.system_prompt: give the rows a key `system` each, which says it")
    fields = draft.table.words["fields"][plain] | {"system": "field_system"}
    written = [name for name in given if name.endswith("format")]
    if unknown := sorted(given.keys() - {*fields.values(), *written}):
        raise Refused(
            key, f"{entry['path']}: type.{unknown[0]} cannot be translated; {near(unknown[0], fields.values())}"
        )
    if written:
        notes.append(f"type.{written[0]}: turns are written by the chat template")
    return {"format": plain, "columns": {own: given.get(name, own) for own, name in fields.items()}}


def _columns(plain: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Keys that the rows have by another name."""
    if plain == "text" and entry.get("field") not in (None, "text"):
        return {"columns": {"text": entry["field"]}}
    if plain == "preference":
        own = {key: entry.get(f"field_{key}") or key for key in ("messages", "chosen", "rejected")}
        return {} if all(key == name for key, name in own.items()) else {"columns": own | {"system": "system"}}
    named = entry.get("field_messages")
    usual = "conversations" if plain == "sharegpt" else "messages"
    if plain not in ("messages", "sharegpt") or named in (None, "messages", "conversations"):
        return {}
    tools = {"tools": entry["field_tools"]} if entry.get("field_tools") else {}
    return {"columns": {usual: named} | tools}


def lengths(draft: Draft) -> None:
    """Longest sequences, what happens to longer ones, and packing."""
    how = draft.text("excess_length_strategy") or "drop"
    over = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    if how not in over:
        raise Refused("excess_length_strategy", f"must be one of {', '.join(over)}")
    draft.put("data.max_length", draft.whole("sequence_len"))
    note = "rows.json names longer rows, and rows that cannot be used and are left out"
    draft.say("mapped", "sequence_len", note, "data.max_length", "data.bad_rows")
    draft.map("excess_length_strategy", "data.over_length", over[how])


def shares(draft: Draft) -> None:
    """How often in an epoch, where they count so; and the defaults of their strategies."""
    if draft.asked("save_steps"):
        draft.facts["save_strategy"] = "steps"
    measured = draft.asked("test_datasets") or bool(draft.number("val_set_size"))
    draft.facts["eval_strategy"] = "steps" if draft.asked("eval_steps") else "epoch" if measured else "no"
    if draft.value("cosine_min_lr_ratio") is not None and draft.value("lr_scheduler_type") != "cosine":
        raise Refused("cosine_min_lr_ratio", "goes with lr_scheduler: cosine")


def _per_epoch(draft: Draft, key: str, steps: str, path: str) -> None:
    if draft.asked(key):
        if draft.asked(steps):
            raise Refused(key, f"{steps} says it too; keep one of both")
        count = draft.number(key)
        draft.put(path, f"{1 / count:.6g} epochs" if count else None)
        draft.say("mapped", key, "", path)


def saves(draft: Draft) -> None:
    """As of transformers' trainer, or so many an epoch."""
    trainer.saves(draft)
    _per_epoch(draft, "saves_per_epoch", "save_steps", "train.save_every")


def evaluations(draft: Draft) -> None:
    """As of transformers' trainer, or so many an epoch."""
    trainer.evaluations(draft)
    _per_epoch(draft, "evals_per_epoch", "eval_steps", "train.evaluate_every")


def schedule(draft: Draft) -> None:
    """As of transformers' trainer, with the end of a cosine."""
    trainer.schedule(draft)
    if draft.value("cosine_min_lr_ratio") is not None:
        draft.put("train.schedule.minimum", draft.number("cosine_min_lr_ratio"))
        draft.say("mapped", "cosine_min_lr_ratio", "", "train.schedule.minimum")
