"""LLaMA-Factory's `dataset_info.json`: names of data sets as files, each with its layout and columns.

A data set's columns are all that its trainer reads of a row, so they are named in full here as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.config import read_tree
from luthier.data.formats.sharegpt import ROLE_OF
from luthier.data.sources import SUFFIXES
from luthier.errors import ConfigError
from luthier.migrate.base import Draft, Refused, near

KEYS = {
    "file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "formatting", "ranking",
    "subset", "split", "folder", "num_samples", "columns", "tags",
}  # fmt: skip
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
EVERYWHERE = {"system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected"}
OURS = ALPACA | SHAREGPT | EVERYWHERE | {"history": "history", "kto_tag": "label"}
"""Their columns and the keys of Luthier's layouts."""
MEDIA = ("images", "videos", "audios")
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
SPEAKERS = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool"}
"""Tags of speakers and who speaks."""


class Catalogue:
    """The data sets that a config may name. `notes` is what differs in those that were asked for."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.notes = draft, list[str]()
        self.folder = draft.value("dataset_dir")
        if not isinstance(self.folder, str) or self.folder == "ONLINE" or self.folder.startswith("REMOTE:"):
            raise Refused("dataset_dir", "must be a folder on this machine with a dataset_info.json; download it first")
        self.file = Path(self.folder) / "dataset_info.json"
        try:
            self.entries = read_tree(self.file)
        except ConfigError as error:
            raise Refused("dataset_dir", str(error)) from None

    def sources(self, key: str, names: list[str]) -> list[dict[str, Any]]:
        """The files of some data sets as `data.train` has them.

        Raises:
            Refused: a name that is not there, or a data set that cannot be read as theirs would be.
        """
        return [source for name in names for source in self._sources(key, name)]

    def _sources(self, key: str, name: str) -> list[dict[str, Any]]:
        entry = self.entries.get(name)
        if not isinstance(entry, dict):
            raise Refused(key, f"{self.file} has no data set {name!r}; {near(name, self.entries)}")
        where = f"{name} ({self.file})"
        if unknown := sorted(entry.keys() - KEYS):
            raise Refused(key, f"{where}: unknown key {unknown[0]}; {near(unknown[0], KEYS)}")
        files = self._files(key, where, entry)
        layout = _layout(key, where, entry, self.draft)
        known = [self.draft.whole("max_samples")] if self.draft.asked("max_samples") else []
        drawn = entry.get("num_samples")
        if drawn is not None:
            if not isinstance(drawn, int):
                raise Refused(key, f"{where}: num_samples must be a number, not {drawn!r}")
            known.append(drawn)
            self.notes.append(f"{name}: the first {drawn} rows, where theirs are drawn at random")
        if known and len(files) > 1:
            raise Refused(key, f"{where}: a limit over several files; name one file")
        return [{"path": str(file)} | layout | ({"limit": min(known)} if known else {}) for file in files]

    def _files(self, key: str, where: str, entry: dict[str, Any]) -> list[Path]:
        for remote in ELSEWHERE:
            if entry.get(remote) and not Path(str(entry[remote])).exists():
                raise Refused(
                    key, f"{where}: {remote} {entry[remote]} is not on this machine; download it and write file_name"
                )
        there = next((str(entry[name]) for name in ELSEWHERE if entry.get(name)), None)
        for option, allowed in (("subset", (None,)), ("folder", (None,)), ("split", (None, "train"))):
            if entry.get(option) not in allowed:
                raise Refused(key, f"{where}: {option} {entry[option]!r} belongs to a hub; write file_name")
        if there is None and not entry.get("file_name"):
            raise Refused(key, f"{where}: has no file_name")
        place = Path(there) if there else Path(self.folder) / str(entry["file_name"])
        if not place.exists():
            raise Refused(key, f"{where}: {place}: no such file (looked at {place.absolute()})")
        files = sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else [place]
        other = next((file for file in files if file.suffix.lower() not in SUFFIXES), None)
        if other is not None or not files:
            raise Refused(key, f"{where}: cannot read {other or place}; allowed: {', '.join(SUFFIXES)}")
        return files


def _layout(key: str, where: str, entry: dict[str, Any], draft: Draft) -> dict[str, Any]:
    """`format` and `columns` of a data set."""
    style, stage = entry.get("formatting", "alpaca"), draft.value("stage")
    if style not in ("alpaca", "sharegpt", "openai"):
        raise Refused(key, f"{where}: formatting must be alpaca, sharegpt or openai, not {style!r}")
    defaults = ALPACA if _alpaca(entry) else SHAREGPT
    columns = dict(entry.get("columns") or defaults)  # a data set that names any has no others
    if pictures := [name for name in MEDIA if columns.get(name)]:
        raise Refused(key, f"{where}: has {pictures[0]}; only text is read")
    if unknown := sorted(columns.keys() - OURS.keys()):
        raise Refused(key, f"{where}: columns: unknown {unknown[0]}; {near(unknown[0], OURS)}")
    _purpose(key, where, entry, columns, str(stage))
    if stage == "pt":
        if style != "alpaca" or columns.get("query") or not columns.get("prompt"):
            raise Refused(key, f"{where}: stage pt reads texts; write columns: {{prompt: the key of the text}}")
        return {"format": "text", "columns": {"text": columns["prompt"]}}
    unread = {"response"} if entry.get("ranking") else {"chosen", "rejected"}
    turned = {OURS[name]: column for name, column in columns.items() if column and name not in unread}
    plain = "alpaca"
    if style != "alpaca":
        plain, own = _speakers(key, where, entry)
        turned = {(own if name == "conversations" else name): column for name, column in turned.items()}
    elif stage == "ppo" and "output" not in turned and "instruction" in turned:
        plain = "prompt"
        turned = {("prompt" if name == "instruction" else name): column for name, column in turned.items()}
    kind = "preference" if entry.get("ranking") else "labelled" if "label" in turned else plain
    return {"format": kind, "columns": turned}


def _purpose(key: str, where: str, entry: dict[str, Any], columns: dict[str, Any], stage: str) -> None:
    """Refuse a data set of another kind than the stage learns from."""
    pairs, ranked = stage in ("dpo", "rm"), bool(entry.get("ranking"))
    verdicts, judged = stage == "kto", bool(columns.get("kto_tag"))
    if pairs != ranked:
        has = "is no ranking data set" if pairs else "is a ranking data set"
        raise Refused(key, f"{where}: {has}, and stage {stage} learns from {'such' if pairs else 'others'}")
    if verdicts != judged:
        has = "has no column kto_tag" if verdicts else "has a column kto_tag"
        raise Refused(key, f"{where}: {has}, and stage {stage} learns from {'such' if verdicts else 'others'}")
    needed = ("chosen", "rejected") if ranked else ("response",) if stage in ("sft", "kto") and _alpaca(entry) else ()
    if lacking := [name for name in needed if not columns.get(name)]:
        raise Refused(key, f"{where}: columns must name {' and '.join(lacking)}")


def _alpaca(entry: dict[str, Any]) -> bool:
    return bool(entry.get("formatting", "alpaca") == "alpaca")


def _speakers(key: str, where: str, entry: dict[str, Any]) -> tuple[str, str]:
    """The layout of turns, and its key; tags other than those of ShareGPT and OpenAI are refused."""
    tags = {name: (entry["tags"].get(name) if entry.get("tags") else tag) for name, tag in TAGS.items()}
    if unknown := sorted(set(entry.get("tags") or ()) - TAGS.keys()):
        raise Refused(key, f"{where}: tags: unknown {unknown[0]}; {near(unknown[0], TAGS)}")
    openai = (tags["role_tag"], tags["content_tag"]) == ("role", "content")
    if not openai and (tags["role_tag"], tags["content_tag"]) != ("from", "value"):
        raise Refused(key, f"{where}: tags: turns must have role and content, or from and value")
    for name, speaker in SPEAKERS.items():
        role = tags[name]
        if role is not None and (role != speaker if openai else ROLE_OF.get(role) != speaker):
            raise Refused(key, f"{where}: tags: {name} {role!r} is not read as {speaker}; rename it in the rows")
    call = tags["function_tag"]
    if call is not None and call != ("assistant" if openai else "function_call"):
        raise Refused(key, f"{where}: tags: function_tag {call!r} is not read as a tool call; rename it in the rows")
    return ("messages", "messages") if openai else ("sharegpt", "conversations")
