"""LLaMA-Factory's `dataset_info.json`: names of data sets as sources, each with its layout, columns and tags.

A data set's columns are all that its trainer reads of a row, so they are named in full here as well.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.config import read_tree
from luthier.errors import ConfigError, DataError
from luthier.plugins import suggestion
from luthier.supplies import shipped
from luthier.system.variables import BOARD

FILE = "dataset_info.json"
WORDS: dict[str, Any] = shipped("luthier.data", "dataset_info.yaml")
"""Their keys, columns and tags, and what they are here."""
KEYS, ELSEWHERE, MEDIA, TAGS, TURNS = (WORDS[name] for name in ("keys", "elsewhere", "media", "tags", "turns"))
OURS = WORDS["alpaca"] | WORDS["sharegpt"] | WORDS["everywhere"] | WORDS["other"]
"""Their columns and the keys of Luthier's layouts."""


@dataclass(frozen=True, slots=True)
class DataSets:
    """What a `dataset_info.json` names. `stage` is what a config of theirs trains; None: what the data set is for."""

    file: Path
    entries: dict[str, Any]
    stage: str | None = None

    @classmethod
    def read(cls, file: Path, stage: str | None = None) -> DataSets:
        """Read the file.

        Raises:
            DataError: there is none, or it is no JSON object.
        """
        try:
            return cls(file, read_tree(file), stage)
        except ConfigError as error:
            raise DataError(str(error)) from None

    def sources(self, name: str, *, most: int | None = None) -> tuple[list[dict[str, Any]], list[str]]:
        """One data set, its first `most` rows, as `data.train` has it; and what is otherwise than theirs.

        Raises:
            DataError: there is none of that name, or it cannot be read as theirs would be.
        """
        entry = self.entries.get(name)
        if not isinstance(entry, dict):
            raise DataError(f"{self.file} has no data set {name!r}; {near(name, self.entries)}")
        where = f"{name} ({self.file})"
        if unknown := sorted(entry.keys() - set(KEYS)):
            raise DataError(f"{where}: unknown key {unknown[0]}; {near(unknown[0], KEYS)}")
        place = self._place(where, entry)
        layout = _layout(where, entry, self.stage)
        known, notes = [] if most is None else [most], []
        drawn = entry.get("num_samples")
        if drawn is not None:
            if not isinstance(drawn, int) or drawn < 1:
                raise DataError(f"{where}: num_samples must be a number, not {drawn!r}")
            known.append(drawn)
            notes.append(f"{name}: the first {drawn} rows, where theirs are drawn at random")
        return [place | layout | ({"limit": min(known)} if known else {})], notes

    def _place(self, where: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Where the rows are."""
        elsewhere = {name: str(entry[name]) for name in ELSEWHERE if entry.get(name)}
        there = next((place for place in elsewhere.values() if Path(place).exists()), None)
        if there is None and "hf_hub_url" in elsewhere and self.stage is None:
            if entry.get("folder"):
                raise DataError(f"{where}: folder {entry['folder']!r} belongs to a hub; write file_name")
            options = {key: entry[key] for key in ("subset", "split") if entry.get(key)}
            return {"path": f"hub:{elsewhere['hf_hub_url']}"} | options
        if there is None and elsewhere:
            named = " ".join(next(iter(elsewhere.items())))
            raise DataError(f"{where}: {named} is not on this machine; download it and write file_name")
        for option, allowed in (("subset", (None,)), ("folder", (None,)), ("split", (None, "train"))):
            if entry.get(option) not in allowed:
                raise DataError(f"{where}: {option} {entry[option]!r} belongs to a hub; write file_name")
        if there is None and not entry.get("file_name"):
            raise DataError(f"{where}: has no file_name")
        place = Path(there) if there else self.file.parent / str(entry["file_name"])
        if (board := os.environ.get(BOARD)) and not place.resolve().is_relative_to(board):
            raise DataError(f"{where}: {place} leads out of {board}, the folder of the board")
        if not place.exists():
            raise DataError(f"{where}: {place}: no such file (looked at {place.absolute()})")
        return {"path": str(place)}


def near(key: str, known: Iterable[str]) -> str:
    """What a wrong name may have meant; all that is allowed where that is little."""
    names = sorted(known)
    found = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {found[0]!r}?" if found else suggestion(key, names)[:500]


def _layout(where: str, entry: dict[str, Any], stage: str | None) -> dict[str, Any]:
    """`format`, `columns` and `turns` of a data set."""
    style = entry.get("formatting", "alpaca")
    if style not in ("alpaca", "sharegpt", "openai"):
        raise DataError(f"{where}: formatting must be alpaca, sharegpt or openai, not {style!r}")
    alpaca = style == "alpaca"
    # a data set that names any has no others
    columns = dict(entry.get("columns") or WORDS["alpaca" if alpaca else "sharegpt"])
    if pictures := [name for name in MEDIA if columns.get(name)]:
        raise DataError(f"{where}: has {pictures[0]}; only text is read")
    if unknown := sorted(columns.keys() - OURS.keys()):
        raise DataError(f"{where}: columns: unknown {unknown[0]}; {near(unknown[0], OURS)}")
    _purpose(where, entry, columns, stage)
    only = {name for name, column in columns.items() if column} == {"prompt"}
    if stage == "pt" or (stage is None and alpaca and only and not entry.get("ranking")):
        if not alpaca or columns.get("query") or not columns.get("prompt"):
            raise DataError(f"{where}: stage pt reads texts; write columns: {{prompt: the key of the text}}")
        return {"format": "text", "columns": {"text": columns["prompt"]}}
    unread = {"response"} if entry.get("ranking") else {"chosen", "rejected"}
    turned = {OURS[name]: column for name, column in columns.items() if column and name not in unread}
    plain, turns = "alpaca", dict[str, str]()
    if not alpaca:
        plain, own, turns = _speakers(where, entry)
        turned = {(own if name == "conversations" else name): column for name, column in turned.items()}
    elif stage == "ppo" and "output" not in turned and "instruction" in turned:
        plain = "prompt"
        turned = {("prompt" if name == "instruction" else name): column for name, column in turned.items()}
    kind = "preference" if entry.get("ranking") else "labelled" if "label" in turned else plain
    return {"format": kind, "columns": turned} | ({"turns": turns} if turns else {})


def _purpose(where: str, entry: dict[str, Any], columns: dict[str, Any], stage: str | None) -> None:
    """Refuse a data set of another kind than the stage learns from."""
    ranked, judged = bool(entry.get("ranking")), bool(columns.get("kto_tag"))
    pairs, verdicts = (ranked, judged) if stage is None else (stage in ("dpo", "rm"), stage == "kto")
    for wanted, there, what in ((pairs, ranked, "is {} ranking data set"), (verdicts, judged, "has {} column kto_tag")):
        if wanted != there:
            which, has = ("such", what.format("no")) if wanted else ("others", what.format("a"))
            raise DataError(f"{where}: {has}, and stage {stage} learns from {which}")
    answered = stage in ("sft", "kto") and entry.get("formatting", "alpaca") == "alpaca"
    needed = ("chosen", "rejected") if ranked else ("response",) if answered else ()
    if lacking := [name for name in needed if not columns.get(name)]:
        raise DataError(f"{where}: columns must name {' and '.join(lacking)}")


def _speakers(where: str, entry: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """The layout of turns, its key, and what they call the parts of a turn, where that is not what the layout does."""
    given = entry.get("tags") or {}
    if unknown := sorted(set(given) - TAGS.keys()):
        raise DataError(f"{where}: tags: unknown {unknown[0]}; {near(unknown[0], TAGS)}")
    tags = TAGS | {name: tag for name, tag in given.items() if tag}
    if (tags["role_tag"], tags["content_tag"]) == ("role", "content"):
        usual = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool"}
        if all(given.get(name, usual[name]) == usual[name] for name in usual) and "function_tag" not in given:
            return "messages", "messages", {}
    if tags == TAGS:
        return "sharegpt", "conversations", {}
    return "sharegpt", "conversations", {TURNS[name]: tag for name, tag in tags.items()}
