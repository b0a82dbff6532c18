"""Rules for the arguments of transformers' trainer, which LLaMA-Factory and TRL share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.data.files.base import suffixes
from luthier.migrate.base import Draft, Line, Refused

ENDLESS = 1_000_000
"""Epochs where the number of steps alone ends a run."""

Keys = tuple[str, ...]


def batch(draft: Draft) -> None:
    """Rows of a forward pass, passes of a step and devices as rows of a step."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    rows, passes = (draft.whole(key) for key in keys)
    devices = draft.facts["devices"]
    total = rows * passes * devices
    note = f"{rows} x {passes} x {devices} device{'s' if devices > 1 else ''} = {total} rows per step over all devices"
    draft.map(keys, "train.batch_size", total, note)


def duration(draft: Draft) -> None:
    """Epochs, unless a number of steps takes their place."""
    steps = draft.whole("max_steps") if draft.asked("max_steps") else 0
    if steps > 0:
        draft.map("max_steps", "train.max_steps", steps)
        draft.put("train.epochs", ENDLESS)
        draft.say("not needed", "num_train_epochs", "max_steps alone ends the run")
    else:
        draft.map("num_train_epochs", "train.epochs", draft.number("num_train_epochs"))
        draft.say("not needed", "max_steps", "as if it were not there")


def warmup(draft: Draft) -> None:
    """A number of steps, or else a share."""
    steps, share = draft.number("warmup_steps"), draft.value("warmup_ratio")
    if share is not None:
        share = draft.number("warmup_ratio")
    if draft.value("lr_scheduler_type") == "constant":
        draft.put("train.warmup_steps", 0)
        draft.say("not needed", ("warmup_steps", "warmup_ratio"), "lr_scheduler_type: constant does not warm up")
    elif steps or not share:
        draft.map("warmup_steps", "train.warmup_steps", steps)
        draft.say("not needed", "warmup_ratio", "no share, or warmup_steps takes its place")
    elif share < 1:
        draft.map("warmup_ratio", "train.warmup_steps", share, "a share of all steps")
        draft.say("not needed", "warmup_steps", "0: warmup_ratio holds")
    else:
        raise Refused("warmup_ratio", "must be below 1")


def schedule(draft: Draft) -> None:
    """Its shape, with the keys of shapes that have some."""
    keys: Keys = ("lr_scheduler_type", "lr_scheduler_kwargs")
    theirs, given = draft.text(keys[0]), draft.mapping(keys[1])
    names = draft.table.words["schedules"]
    if theirs is None or theirs not in names:
        raise Refused(keys[0], f"there is no such schedule here; what can be translated: {', '.join(names)}")
    ours = {"type": names[theirs]} | _shape(draft, theirs, given)
    draft.map(keys, "train.schedule", ours if len(ours) > 1 else ours["type"])


def _shape(draft: Draft, theirs: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys of a schedule, from what the tools give it besides."""
    found = dict[str, Any]()
    if theirs == "cosine_with_restarts":
        found["cycles"] = given.pop("num_cycles", 1)
    elif theirs == "polynomial":
        found = {"power": given.pop("power", 1.0), "minimum": _share(draft, given.pop("lr_end", 1e-7))}
    elif theirs == "cosine_with_min_lr":
        rate, share = given.pop("min_lr", None), given.pop("min_lr_rate", 0.0)
        found["minimum"] = share if rate is None else _share(draft, rate)
    elif theirs == "warmup_stable_decay":
        share = draft.table.words.get("decay_share")
        if share is None or {"num_decay_steps", "num_stable_steps"} & given.keys():
            raise Refused("lr_scheduler_kwargs", "write train.schedule: {type: wsd, decay: the share that falls}")
        found = {"decay": share, "shape": given.pop("decay_type", "cosine"), "minimum": given.pop("min_lr_ratio", 0.0)}
    if given:
        raise Refused("lr_scheduler_kwargs", f"train.schedule has nothing like {', '.join(map(str, given))}")
    return found


def _share(draft: Draft, rate: Any) -> float:
    """A learning rate as a share of the peak."""
    try:
        return round(float(rate) / draft.number("learning_rate"), 12)
    except (TypeError, ValueError, ZeroDivisionError):
        raise Refused("lr_scheduler_kwargs", f"{rate!r} is no share of the learning rate") from None


def optimizer(draft: Draft) -> None:
    """The optimizer with its decays; what the tools call by `use_*` is decided before."""
    names, words = draft.table.words["optimizers"], draft.table.words
    theirs = "adafactor" if draft.value("adafactor") else str(draft.value("optim"))
    chosen = next((name for name in words.get("by_key", ()) if draft.value(f"use_{name}") is True), None)
    if chosen is None and theirs not in names:
        raise Refused("optim", f"there is no such optimizer here; what can be translated: {', '.join(names)}")
    note = "" if chosen else names[theirs][1]
    ours: dict[str, Any] = {"type": chosen or names[theirs][0]}
    moments: Keys = ("adam_beta1", "adam_beta2")
    beyond = "no such key of this optimizer"
    if ours["type"] in words["with_betas"]:
        if any(map(draft.asked, moments)) or ours["type"] == "lion":  # whose own would be others
            default = {"adam_beta1": 0.9, "adam_beta2": 0.999}
            ours["betas"] = [draft.number(key) if draft.asked(key) else default[key] for key in moments]
            draft.say("mapped", moments, "", "train.optimizer.betas")
    else:
        draft.say("not needed", moments, beyond)
    if ours["type"] in words["with_eps"] and (draft.asked("adam_epsilon") or ours["type"] in ("galore", "apollo")):
        ours["eps"] = draft.number("adam_epsilon") if draft.asked("adam_epsilon") else 1e-8
        draft.say("mapped", "adam_epsilon", "", "train.optimizer.eps")
    else:
        draft.say("not needed", "adam_epsilon", beyond)
    keys = ("optim", "adafactor")
    draft.map(keys, "train.optimizer", ours if len(ours) > 1 else ours["type"], note, changed=bool(note))
    if draft.asked("max_grad_norm"):
        limit = draft.number("max_grad_norm")
        draft.map("max_grad_norm", "train.max_grad_norm", limit or None, "0: not clipped" if not limit else "")


def precision(draft: Draft) -> None:
    """Which of the two is on; neither: as the hardware has it."""
    on = [key for key in ("bf16", "fp16") if draft.value(key) in (True, "true")]
    if len(on) == 2:
        raise Refused("fp16", "bf16 is on too; keep one")
    for key in on:
        draft.map(key, "train.precision", key)
    rest = [key for key in ("bf16", "fp16") if key not in draft.lines]
    draft.say("not needed", rest, "off" if on else "train.precision: auto takes what the hardware has")


def saves(draft: Draft) -> None:
    """How often a checkpoint is written, and how many are kept."""
    every = _every(draft, "save_strategy", "save_steps")
    draft.map(("save_strategy", "save_steps"), "train.save_every", every)
    if draft.asked("save_total_limit"):
        note = "the newest ones, and the best besides"
        draft.map("save_total_limit", "output.keep", draft.whole("save_total_limit"), note)
    else:
        said = "they keep every checkpoint, Luthier the two newest and the best"
        draft.lines["save_total_limit"] = Line("save_total_limit", None, "default", said, ("output.keep",))


def evaluations(draft: Draft) -> None:
    """How often the held-out rows are measured."""
    old = "evaluation_strategy" if draft.asked("evaluation_strategy") else "eval_strategy"
    keys = ("eval_strategy", "evaluation_strategy", "eval_steps")
    every = _every(draft, old, "eval_steps", default=draft.value("logging_steps") or 500)
    draft.map(keys, "train.evaluate_every", every, "" if every else "at the end only")


def _every(draft: Draft, strategy: str, steps: str, *, default: int = 500) -> str | None:
    """A strategy and its steps as a duration."""
    how = draft.value(strategy)
    if how in ("no", False, "best"):  # the best is kept besides
        return None
    if how == "epoch":
        return "1 epoch"
    if how != "steps":
        raise Refused(strategy, f"must be no, epoch or steps, not {how!r}")
    count = draft.number(steps) if draft.value(steps) is not None else default
    if count >= 1:
        return f"{int(count)} step{'s' if count > 1 else ''}"
    total = draft.number("max_steps") if draft.asked("max_steps") else -1
    return (
        f"{max(1, int(count * total))} steps" if total > 0 else f"{count * draft.number('num_train_epochs'):g} epochs"
    )


def trackers(draft: Draft) -> None:
    """Where numbers go besides the run's folder."""
    names = draft.names("report_to")
    if unknown := [name for name in names if name not in ("none", "tensorboard")]:
        raise Refused("report_to", f"{', '.join(unknown)} is not written to; write none or tensorboard")
    if "tensorboard" in names:
        draft.map("report_to", "output.trackers", ["tensorboard"])
    draft.say("not needed", [] if "tensorboard" in names else "report_to", "numbers are always in metrics.jsonl")


# ---- what other rules share ----------------------------------------------------------------------------------------


def dropout(draft: Draft, where: str, *, still: bool) -> None:
    """LoRA's dropout, which they switch off in some methods."""
    rate = draft.number("lora_dropout")
    said = f"they switch dropout off in this {where}" if still and rate else ""
    draft.map("lora_dropout", "adapter.dropout", 0.0 if still else rate, said, changed=bool(said))


def held_out(draft: Draft, key: str, other: str) -> None:
    """A share of the rows; `other` is the key that names files of them."""
    share = draft.number(key)
    if share >= 1:
        raise Refused(key, f"a number of rows cannot be held out; write a share below 1, or {other}")
    note = "chosen by each row's content, so that equal rows stay on one side" if share else ""
    draft.map(key, "data.held_out", share, note, changed=bool(share))


def files_of(key: str, entry: dict[str, Any], missing: str) -> list[Path]:
    """The files of a data set: those it names, or those of a folder."""
    files = entry.get("data_files") or [entry["path"]]
    found = [Path(file) for file in ([files] if isinstance(files, str) else files)]
    if len(found) == 1 and found[0].is_dir():
        found = sorted(file for file in found[0].iterdir() if file.suffix in suffixes())
    if not found or not all(file.is_file() for file in found):
        raise Refused(key, f"{entry['path']} {missing}")
    return found
