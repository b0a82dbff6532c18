"""Configs of LLaMA-Factory, Axolotl and TRL, read by tables: what each of their keys becomes here.

What it does: a `Table` is a YAML file beside this one that says for every key of a tool where it goes, why it is not
needed, or why it is refused and what to write instead. A `Draft` is one config in translation: what it says about a key
becomes a `Line` of the report. Functions (`Rule`) do what is not one to one.
What it must not know: models and rows; it writes a tree of plain values, which is then validated like any config.
How to add a tool: a table, a module with its rules, and a line in `tools.py`. How to add a key: a line in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from luthier.config import read_tree
from luthier.plugins import Settings, suggestion

Outcome = Literal["mapped", "changed", "not needed", "refused", "default"]
"""Same meaning; another meaning (the note says which); nothing to write; no way to write it; not in the file."""

SECRETS = ("token", "api_key", "secret", "webhook_url")
"""Ends of keys whose values are shown to nobody."""

NEAR, FEW = 0.75, 20
"""How alike a name must be to be meant; how many names are told."""

UNREAD = "what it belongs to is refused, so it was not read"

EXPONENT = re.compile(r"[+-]?[0-9]+\.?[0-9]*[eE][+-]?[0-9]+")


class Entry(Settings):
    """What becomes of one key."""

    to: str | None = None
    """The key here."""
    values: dict[Any, Any] = Field(default={})
    """Their values and ours; others are refused. Empty: as they are."""
    changed: str = ""
    """How the meaning differs."""
    not_needed: str = ""
    """Why there is nothing to write."""
    refused: str = ""
    """Why it cannot be, and what to write instead."""
    write: Any = None
    """What is written, where that is not the value itself."""
    besides: dict[str, Any] = Field(default={})
    """Other keys here that are written with it."""
    read: Literal["", "number", "whole"] = ""
    """As what the value is read."""
    see: str = ""
    """A key here that it bears on, where nothing is written for it alone."""
    harmless: list[Any] = Field(default=[])
    """Values that ask for nothing else than what Luthier does."""
    when: dict[str, list[Any]] = Field(default={})
    """Values of other keys under which this one matters; else it is not needed."""
    where: dict[str, list[Any]] = Field(default={})
    """Values of keys, of itself too, with which this case holds."""
    cases: list[Entry] = Field(default=[])
    """What becomes of it from case to case; the first that holds decides."""
    rule: str = ""
    """The function that decides."""


class Reason(Settings):
    """Keys that share a reason."""

    why: str
    keys: dict[str, list[Any]] | list[str]
    """Names; or, of refused keys, names and the values that ask for nothing."""
    when: dict[str, list[Any]] = Field(default={})


class Table(Settings):
    """What becomes of every key of a tool, as its file has it; `entries` are made of that and of what it includes."""

    title: str
    """The tool and its version."""
    includes: list[str] = Field(default=[])
    """Tables whose keys this tool has too."""
    fixed: dict[str, Any] = Field(default={})
    """What holds here whatever the file says."""
    defaults: dict[str, Any] = Field(default={})
    """What the tool does where the file does not say, and Luthier would not do."""
    mapped: dict[str, str | Entry | list[Entry]] = Field(default={})
    """Keys with a key here, and keys of which their values, or those of others, decide."""
    rules: dict[str, list[str]] = Field(default={})
    """Functions, and the keys that each decides about."""
    not_needed: list[Reason] = Field(default=[])
    refused: list[Reason] = Field(default=[])
    renames: dict[str, str] = Field(default={})
    """Keys that other tools have by another name, under which the rules know them."""
    words: dict[str, Any] = Field(default={})
    """Data of the functions."""
    entries: dict[str, Entry] = Field(default={})

    @property
    def keys(self) -> list[str]:
        """Every key of the tool, by the name that it has there."""
        return [*(key for key in self.entries if key not in self.renames.values()), *self.renames]


@cache
def table(name: str) -> Table:
    """The table of that name, with those it includes; what it says itself comes first."""
    file = Table.model_validate(read_tree(Path(__file__).parent / f"{name}.yaml"))
    entries: dict[str, Entry] = {}
    fixed, defaults, words = dict(file.fixed), dict(file.defaults), dict(file.words)
    for rule, keys in file.rules.items():
        entries |= {key: Entry(rule=rule) for key in keys}
    for key, entry in file.mapped.items():
        cases = entry if isinstance(entry, list) else []
        entries[key] = entry if isinstance(entry, Entry) else Entry(cases=cases) if cases else Entry(to=str(entry))
    for reason in file.not_needed:
        entries |= {key: Entry(not_needed=reason.why, when=reason.when) for key in reason.keys}
    for reason in file.refused:
        values = reason.keys if isinstance(reason.keys, dict) else {key: [] for key in reason.keys}
        entries |= {k: Entry(refused=reason.why, harmless=v, when=reason.when) for k, v in values.items()}
    for other in map(table, file.includes):
        entries |= {key: entry for key, entry in other.entries.items() if key not in entries}
        fixed, defaults, words = {**other.fixed, **fixed}, {**other.defaults, **defaults}, {**other.words, **words}
    return file.model_copy(update={"fixed": fixed, "defaults": defaults, "words": words, "entries": entries})


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one key."""

    key: str
    value: Any
    outcome: Outcome
    note: str
    to: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The value, unless it is a secret."""
        return "(not shown)" if self.key.endswith(SECRETS) and self.value is not None else repr(self.value)

    def __str__(self) -> str:
        target = f" -> {', '.join(self.to)}" if self.to else ""
        return f"{self.key}: {self.shown}{target}{f' ({self.note})' if self.note else ''}"


class Refused(Exception):
    """Raised by a rule that cannot go on: the key, and what to write instead."""

    def __init__(self, key: str, why: str) -> None:
        self.key, self.why = key, why
        super().__init__(f"{key}: {why}")


@dataclass
class Draft:
    """A config in translation."""

    table: Table
    given: Mapping[str, Any]
    """The file, without keys that are null."""
    facts: dict[str, Any]
    """What is known besides, such as the number of devices or the objective; conditions read it like keys."""
    tree: dict[str, Any] = field(default_factory=dict)
    """The config here."""
    written: dict[str, Any] = field(default_factory=dict)
    """The same by paths."""
    lines: dict[str, Line] = field(default_factory=dict)
    """What became of each key."""

    def asked(self, key: str) -> bool:
        """Whether the file says it."""
        return key in self.given

    def value(self, key: str) -> Any:
        """What holds of a key: what the file says, else what the tool does then."""
        if self.asked(key):
            return self.given[key]
        return self.facts.get(key, self.table.defaults.get(key))

    def number(self, key: str) -> float:
        """The same as a number; YAML reads 1e-4 as text.

        Raises:
            Refused: it is none.
        """
        value = self.value(key)
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError):
            raise Refused(key, f"must be a number, not {value!r}") from None

    def whole(self, key: str) -> int:
        """The same as a whole number; raises Refused."""
        value = self.number(key)
        if value != int(value):
            raise Refused(key, f"must be a whole number, not {self.value(key)!r}")
        return int(value)

    def text(self, key: str) -> str | None:
        """The same as text, where anything holds; raises Refused."""
        found: str | None = self._of(str, key, "be text")
        return found

    def names(self, key: str) -> list[str]:
        """The same as names, in a list or with commas between; raises Refused."""
        value = self.value(key)
        found = value.split(",") if isinstance(value, str) else [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
            raise Refused(key, f"must be names with commas between, not {value!r}")
        return [name.strip() for name in found]

    def entries(self, key: str) -> list[Any]:
        """The same as a list of one entry or more; raises Refused."""
        value = self.value(key)
        if not isinstance(value, list) or not value:
            raise Refused(key, f"must be a list, not {value!r}")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """The same as keys and values; raises Refused."""
        return dict(self._of(dict, key, "hold keys and values") or {})

    def _of(self, kind: type, key: str, must: str) -> Any:
        value = self.value(key)
        if value is not None and not isinstance(value, kind):
            raise Refused(key, f"must {must}, not {value!r}")
        return value

    def put(self, path: str, value: Any) -> None:
        """Write one key here, for example `train.seed`."""
        *sections, last = path.split(".")
        tree = self.tree
        for section in sections:
            inner = tree.setdefault(section, {})
            if isinstance(inner, str):  # a part by its name alone gets keys
                inner = tree[section] = {"type": inner}
            tree = inner
        tree[last] = self.written[path] = value

    def say(self, outcome: Outcome, keys: str | Iterable[str], note: str = "", *to: str) -> None:
        """What became of keys that the file has; of those it lacks, that their defaults were written."""
        for key in [keys] if isinstance(keys, str) else keys:
            if key in self.lines and self.lines[key].outcome == "refused":
                continue
            if self.asked(key):
                self.lines[key] = Line(key, self.given[key], outcome, note, to)
            elif outcome in ("mapped", "changed") and key in self.table.defaults and to:
                self.lines[key] = Line(key, self.value(key), "default", note, to)

    def map(self, keys: str | Iterable[str], path: str, value: Any, note: str = "", *, changed: bool = False) -> None:
        """Write one key here and say where it came from.

        Raises:
            Refused: another key of the file wrote something else there.
        """
        keys = [keys] if isinstance(keys, str) else list(keys)
        other = next((k for k in self.lines if path in self.lines[k].to and self.asked(k) and k not in keys), None)
        if other is not None and any(map(self.asked, keys)) and self.written.get(path) not in (None, value):
            raise Refused(next(filter(self.asked, keys)), f"{other} says what {path} is too; keep one of both")
        self.put(path, value)
        self.say("changed" if changed else "mapped", keys, note, path)


Rule = Callable[[Draft], None]


def rule(name: str, tool: str) -> Rule:
    """The function of that name in the module of a tool, else in that of the trainer."""
    places = [import_module(f"{__package__}.{module}") for module in (tool, "trainer")]
    found: Rule = next(getattr(place, name) for place in places if hasattr(place, name))
    return found


def translate(name: str, given: Mapping[str, Any], facts: Mapping[str, Any]) -> Draft:
    """Every key of a config through a table and its rules; each that the file has is in `lines` in the end."""
    chosen = table(name)
    known = {key: chosen.renames.get(key, key) for key in given if key in chosen.keys}
    said = {known[key]: _read(given[key]) for key in known if given[key] is not None}
    draft = Draft(chosen, said, dict(facts))
    for path, value in chosen.fixed.items():
        draft.put(path, value)
    for key, why in [(key, why) for key in said if (why := _unusable(said[key]))]:
        draft.say("refused", key, why)
        del said[key]  # so that no rule takes it for what it is not
    for decides in dict.fromkeys(entry.rule for entry in chosen.entries.values() if entry.rule):
        _decided(draft, rule(decides, name))
    for key in said:
        if key not in draft.lines:
            _decided(draft, partial(_entry, key=key, entry=chosen.entries[key]))
    for key in chosen.defaults:
        to = chosen.entries[key].to
        if key not in draft.lines and not any(to in line.to for line in draft.lines.values()):
            _entry(draft, key, chosen.entries[key])
    theirs = {ours: key for key, ours in chosen.renames.items()}
    draft.lines = {theirs.get(k, k): replace(line, key=theirs.get(k, k)) for k, line in draft.lines.items()}
    for key, value in given.items():
        if key not in known:
            why = f"{chosen.title} has no such key; {near(key, chosen.keys)}"
            draft.lines[key] = Line(key, value, "refused", why)
        elif value is None and (key not in draft.lines or key in chosen.words.get("nulls", {})):
            why = chosen.words.get("nulls", {}).get(key)
            draft.lines[key] = Line(
                key, None, "refused" if why else "not needed", why or "null, as if it were not there"
            )
    return draft


def _unusable(value: Any) -> str | None:
    """Why no rule should see a value."""
    if isinstance(value, dict | list):
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return next(filter(None, map(_unusable, inner)), None)
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    return (
        "write the value itself; names in ${} are not filled in" if isinstance(value, str) and "${" in value else None
    )


def _decided(draft: Draft, decide: Rule) -> None:
    """Decide, or refuse what cannot be."""
    try:
        decide(draft)
    except Refused as error:
        if error.key not in draft.lines or draft.lines[error.key].outcome != "refused":
            draft.lines[error.key] = Line(error.key, draft.value(error.key), "refused", error.why)


def _read(value: Any) -> Any:
    """YAML takes 1e-4 for text; the tools do not."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _entry(draft: Draft, key: str, entry: Entry) -> None:
    """Decide about one key by its entry."""
    value = draft.value(key)
    if entry.cases:
        holds = (one for one in entry.cases if all(_among(draft.value(k), few) for k, few in one.where.items()))
        _entry(draft, key, next(holds))
    elif entry.rule:
        draft.say("refused", key, UNREAD)
    elif other := next((k for k, allowed in entry.when.items() if draft.value(k) not in allowed), None):
        draft.say("not needed", key, f"matters only with {other}: {' or '.join(map(str, entry.when[other]))}")
    elif entry.not_needed:
        draft.say("not needed", key, entry.not_needed)
    elif _among(value, entry.harmless):
        draft.say("not needed", key, "as here")
    elif entry.refused:
        draft.say("refused", key, entry.refused)
    elif entry.values and not (isinstance(value, str | int | float) and value in entry.values):
        allowed = ", ".join(map(str, entry.values))
        draft.say("refused", key, f"there is nothing like it here; what can be translated: {allowed}")
    elif entry.to:
        read = {"": draft.value, "number": draft.number, "whole": draft.whole}[entry.read]
        ours = entry.values[value] if entry.values else read(key) if entry.write is None else entry.write
        draft.map(key, entry.to, ours, entry.changed, changed=bool(entry.changed))
        for path, constant in entry.besides.items():
            draft.put(path, constant)
            draft.say("changed", key, entry.changed, entry.to, *entry.besides)
    else:
        draft.say("changed" if entry.changed else "mapped", key, entry.changed, *filter(None, [entry.see]))


def _among(value: Any, few: Iterable[Any]) -> bool:
    """Whether a value is one of a few; true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in few)


def near(key: str, known: Iterable[str]) -> str:
    """What a wrong name may have meant; all that is allowed where that is little."""
    names = sorted(known)
    found = get_close_matches(key, names, n=1, cutoff=NEAR)
    return (
        f"did you mean {found[0]!r}?"
        if found
        else suggestion(key, names)
        if len(names) <= FEW
        else "correct it or drop it"
    )
