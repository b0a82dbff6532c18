"""Rules for what is not one to one in the configs of TRL. Which command a config is for is told, not found."""

from __future__ import annotations

from itertools import islice
from typing import Any

from luthier.data.formats.base import SAMPLE_ROWS, recognise
from luthier.data.sources import read_rows
from luthier.migrate import trainer
from luthier.migrate.base import Draft, Refused

ONLINE = ("grpo", "rloo")


def method(draft: Draft) -> None:
    """The objective and its loss."""
    name, words = draft.facts["method"], draft.table.words
    draft.facts |= {"objective": name, "learning_rate": words["rates"][name]}
    if name == "rloo":
        draft.facts |= {"beta": 0.05, "num_generations": 2}
    elif name == "grpo":
        draft.facts["beta"] = 0.0
    draft.put("objective.type", name)
    losses = draft.names("loss_type")
    weights = draft.entries("loss_weights") if draft.asked("loss_weights") else [1.0] * len(losses)
    terms = dict(zip(losses, weights, strict=False))
    own = terms.pop("sft", None) if name == "dpo" else None
    allowed = words["losses"][name]
    if len(terms) > 1 or any(loss not in allowed for loss in terms):
        raise Refused("loss_type", f"must be one of {', '.join(allowed)}{', and sft besides' if name == 'dpo' else ''}")
    if len(weights) != len(losses) or any(weight != 1 for weight in terms.values()):
        raise Refused("loss_weights", "must have 1.0 for the loss that compares")
    for loss in terms:
        for key, value in allowed[loss].items():
            draft.put(f"objective.{key}", value)
    if own is not None:
        draft.put("objective.sft_weight", own)
    draft.say("mapped", ("loss_type", "loss_weights"), "", "objective")


def peft(draft: Draft) -> None:
    """LoRA, or every weight."""
    keys = ("use_peft", "load_in_4bit", "load_in_8bit", "lora_dropout", "lora_target_modules")
    bits = next((bits for bits in (4, 8) if draft.value(f"load_in_{bits}bit") is True), None)
    thin = draft.value("use_peft") is True
    if bits and not thin:
        raise Refused(f"load_in_{bits}bit", "only LoRA trains on a quantised base; write use_peft: true")
    kind = "full" if not thin else "qlora" if bits else "lora"
    draft.facts["adapter"] = kind
    draft.map("use_peft", "adapter.type", kind)
    if bits:
        draft.map(f"load_in_{bits}bit", "adapter.bits", bits)
    if thin:
        still = draft.facts["method"] not in ("sft", *ONLINE) and draft.value("disable_dropout") is not False
        trainer.dropout(draft, "method", still=still)
        targets = draft.value("lora_target_modules")
        if targets is None:
            draft.put("adapter.target_modules", ["q_proj", "v_proj"])  # peft's choice for most families
        else:
            targets = draft.names("lora_target_modules")
            chosen = "all-linear" if targets == ["all-linear"] else targets
            draft.map("lora_target_modules", "adapter.target_modules", chosen)
    draft.say("not needed", [key for key in keys if key not in draft.lines], "off")


def data(draft: Draft) -> None:
    """Files, and what of their rows is learnt."""
    key = "dataset_name" if draft.asked("dataset_name") else "datasets"
    if draft.asked("dataset_name") and draft.asked("datasets"):
        raise Refused("datasets", "dataset_name names the rows too; keep one of both")
    if not draft.asked(key):
        raise Refused("dataset_name", "is required to train: a file of rows")
    if draft.value("dataset_train_split") != "train":
        raise Refused("dataset_train_split", "splits belong to a hub; name the file of the rows to train on")
    named = [{"path": draft.value(key)}] if key == "dataset_name" else draft.entries(key)
    sources = [source for entry in named for source in _sources(key, entry)]
    draft.map(key, "data.train", sources)
    draft.say("mapped", "dataset_train_split", "every row of the files", "data.train")
    draft.say("not needed", "dataset_test_split", "a file has one split; held-out rows: data.held_out")
    if draft.value("eval_strategy") not in (None, "no"):
        raise Refused("eval_strategy", "a file has no test split; write eval_strategy=null, and data.held_out")
    _learnt(draft, sources[0])


def _sources(key: str, entry: Any) -> list[dict[str, Any]]:
    """One entry as `data.train` has it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise Refused(key, "each entry needs a path")
    if unknown := sorted(entry.keys() - {"path", "data_files", "split", "columns"}):
        raise Refused(key, f"{unknown[0]}: belongs to a hub; name files in data_files")
    if entry.get("split") not in (None, "train"):
        raise Refused(key, f"split {entry['split']!r} belongs to a hub; name the file")
    found = trainer.files_of(key, entry, "is not a file on this machine; download the data set and name its file")
    columns = {"columns": {name: name for name in entry["columns"]}} if entry.get("columns") else {}
    return [{"path": str(file)} | columns for file in found]


def _learnt(draft: Draft, source: dict[str, Any]) -> None:
    """They learn every token of a conversation unless told otherwise, and of a prompt and its completion the latter."""
    keys = ("completion_only_loss", "assistant_only_loss")
    if draft.facts["method"] != "sft":
        draft.say("not needed", keys, "matters only with method: sft")
        return
    rows = list(islice(read_rows(source["path"], limit=SAMPLE_ROWS), SAMPLE_ROWS))
    completion = recognise(rows, source["path"]) == "prompt-completion" and draft.value(keys[0]) is not False
    answers = completion or draft.value("assistant_only_loss") is True
    draft.facts["objective"] = learnt = "sft" if answers else "pretrain"
    draft.put("objective.type", learnt)
    draft.say("mapped", keys, "answers are learnt" if answers else "every token of a row is learnt", "objective.type")


def lengths(draft: Draft) -> None:
    """Longest sequences, and packing."""
    online = draft.facts["method"] in ONLINE
    if online:
        draft.say("not needed", "max_length", "a prompt is not cut")
    else:
        draft.put("data.over_length", "truncate")
        note = "longer rows lose their end; rows.json names them, and those that cannot be used and are left out"
        draft.put("data.max_length", draft.whole("max_length"))
        draft.say("mapped", "max_length", note, "data.max_length", "data.over_length", "data.bad_rows")


def judge(draft: Draft) -> None:
    """What judges answers."""
    keys = ("reward_funcs", "reward_weights", "reward_model_name_or_path")
    if draft.facts["method"] not in ONLINE:
        draft.say("not needed", keys, f"matters only with method: {' or '.join(ONLINE)}")
        return
    if draft.asked("reward_funcs") or not draft.asked(keys[2]):
        raise Refused(
            "reward_funcs", "their functions take other arguments; write objective.rewards, e.g. [exact_match]"
        )
    draft.map(keys[2], "objective.rewards", [{"type": "model", "path": draft.value(keys[2])}])
    draft.say("not needed", "reward_weights", "there is one reward")


def online(draft: Draft) -> None:
    """From how many answers the same steps learn."""
    keys = ("steps_per_generation", "generation_batch_size")
    if draft.facts["method"] not in ONLINE:
        draft.say("not needed", keys, f"matters only with method: {' or '.join(ONLINE)}")
        return
    if draft.value(keys[0]) not in (None, draft.value("gradient_accumulation_steps")) or draft.asked(keys[1]):
        raise Refused(
            keys[1] if draft.asked(keys[1]) else keys[0], "answers are drawn for one step; see objective.updates"
        )
    draft.say("not needed", keys[0], "answers are drawn for one step")


def batch(draft: Draft) -> None:
    """Online, they count answers where Luthier counts prompts."""
    if draft.facts["method"] not in ONLINE:
        trainer.batch(draft)
        return
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    answers = draft.whole(keys[0]) * draft.whole(keys[1]) * draft.facts["devices"]
    samples = draft.whole("num_generations")
    if samples < 1 or answers % samples:
        raise Refused(keys[0], f"{answers} answers a step are no multiple of num_generations {samples}")
    note = f"prompts per step over all devices: {answers} answers, {samples} to each prompt"
    draft.map(keys, "train.batch_size", answers // samples, note)


def chat(draft: Draft) -> None:
    """A template of one's own, and its variables."""
    key = "chat_template_path"
    if draft.asked(key):
        if not str(draft.value(key)).endswith(".jinja"):
            raise Refused(key, "must be a .jinja file")
        draft.map(key, "model.chat_template", draft.value(key))
