"""Fields of forms from the config's JSON schema, and the one text that all of them change: the YAML of the config.

The text is what `luthier train` reads; a form is a view of a part of it. So page and file cannot differ, what was
written by hand stays where no field touches it, and a plug-in that is installed is in the schema, hence in the forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from typing import Any, Literal

import yaml

from luthier.config import RunConfig, bare_key, parse_config, tree_of, value_of
from luthier.errors import ConfigError, Problem

Kind = Literal["flag", "choice", "number", "text", "lines", "value"]
"""`lines`: several texts; `value`: anything else, as a piece of YAML."""
Schema = Mapping[str, Any]
FIRST = "model: smollm2-135m-instruct\ndata:\n  train: []\noutput: runs/first\n"
"""What the board begins with."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a config, as a form shows it; `value` is None where the config does not say it."""

    path: str
    kind: Kind
    value: Any
    default: Any
    about: str
    options: list[Any] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    whole: bool = False
    needed: bool = False

    def said(self, given: Any) -> Any:
        """What a component holds as a value of the config; None: nothing is said.

        Raises:
            ConfigError: a piece of YAML, or a number, that is none.
        """
        if given is None or given == "":
            return None
        if self.kind == "number":
            try:
                return int(given) if self.whole else float(given)
            except ValueError:
                kind = "whole number" if self.whole else "number"
                raise ConfigError([Problem(self.path, f"expected a {kind}, got {given!r}")]) from None
        if self.kind == "lines":
            return [line.strip() for line in given.splitlines() if line.strip()] if isinstance(given, str) else given
        if self.kind == "value":
            return value_of(given, source=self.path) if isinstance(given, str) else given
        return given


@cache
def schema() -> Schema:
    """Of a whole config, with every installed part."""
    return RunConfig.model_json_schema()


def sections() -> list[str]:
    """The sections of a config."""
    return list(schema()["properties"])


def fields(section: str, text: str) -> list[Field]:
    """The fields of a section, and of the kinds that the config picks in it."""
    whole = schema()["properties"][section]
    return list(_fields(section, whole, values(text).get(section)))


def easy(keys: Sequence[str], text: str) -> list[Field]:
    """Some fields, of whatever sections."""
    every = {one.path: one for name in sections() for one in fields(name, text)}
    return [every[key] for key in keys]


def spelled(value: Any) -> str:
    """A value as YAML writes it, on one line; nothing for None."""
    if value is None or isinstance(value, str):
        return value or ""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


def _fields(path: str, node: Schema, value: Any) -> Iterator[Field]:
    node = _resolved(node)
    kinds = _kinds(node)
    if kinds is not None:
        usual = node.get("default")
        usual = usual["type"] if isinstance(usual, dict) else usual
        said = value.get("type") if isinstance(value, dict) else value
        name = said if isinstance(said, str) and said in kinds else str(usual)
        said = None if said is None else name
        yield Field(f"{path}.type", "choice", said, node.get("default"), node.get("description", ""), options=[*kinds])
        node = kinds.get(name, {})
    for key, inner in node.get("properties", {}).items():
        if kinds is not None and key == "type":
            continue
        held = value.get(key) if isinstance(value, dict) else value if key == "path" or key == "dir" else None
        if _kinds(_resolved(inner)) is not None:
            yield from _fields(f"{path}.{key}", inner, held)
        else:
            yield _field(f"{path}.{key}", _resolved(inner), held)


def _field(path: str, node: Schema, value: Any) -> Field:
    about, default = node.get("description", ""), node.get("default")
    ways = [one for one in node.get("anyOf", [node]) if one.get("type") != "null"]
    common = {"path": path, "value": value, "default": default, "about": about}
    if len(ways) == 1 and "enum" in ways[0]:
        return Field(kind="choice", options=ways[0]["enum"], **common)
    if len(ways) == 1 and ways[0].get("type") == "boolean":
        return Field(kind="flag", **common)
    if len(ways) == 1 and ways[0].get("type") in ("integer", "number"):
        one = ways[0]
        low, high = one.get("minimum", one.get("exclusiveMinimum")), one.get("maximum", one.get("exclusiveMaximum"))
        return Field(kind="number", low=low, high=high, whole=one["type"] == "integer", **common)
    plain = all(one.get("type") == "string" for one in ways)
    return Field(kind="text" if plain else "value", **common)


def _resolved(node: Schema) -> Schema:
    """A node with what it refers to."""
    while "$ref" in node or len(node.get("allOf", ())) == 1:
        inner = node["allOf"][0] if "allOf" in node else schema()["$defs"][node["$ref"].rpartition("/")[2]]
        node = {**inner, **{key: said for key, said in node.items() if key not in ("$ref", "allOf")}}
    return node


def _kinds(node: Schema) -> dict[str, Schema] | None:
    """The parts among which a node picks one, by name; None where it picks none."""
    ways = node.get("oneOf")
    return dict(zip(ways[0]["enum"], ways[1:], strict=True)) if ways and "enum" in ways[0] else None


# ---- the text ------------------------------------------------------------------------------------------------------


def values(text: str) -> dict[str, Any]:
    """What a config's text says; empty where it is none just now, as while it is typed."""
    try:
        return tree_of(text)
    except ConfigError:
        return {}


def changed(text: str, path: str, value: Any) -> str:
    """The text with another value of a key, and with its comments; None leaves the key out.

    A part of another kind begins with its defaults. A text that is no config just now stays as it is.
    """
    if not values(text) and text.strip():
        return text
    from ruamel.yaml import YAML

    kept = YAML()
    kept.width, kept.preserve_quotes = 100, True
    tree = kept.load(text) if values(text) else kept.map()
    *way, last = path.split(".")
    inner = tree
    for depth, key in enumerate(way):
        if not isinstance(inner.get(key), dict):
            held = inner.get(key)
            inner[key] = {} if held is None else {bare_key(".".join(way[: depth + 1])): held}
        inner = inner[key]
    if last == "type" and inner.get("type") != value:
        inner.clear()
    inner.pop(last, None) if value is None else inner.update({last: _quoted(value)})
    _tidy(tree, way)
    made = StringIO()
    kept.dump(tree, made)
    return made.getvalue() if tree else ""


def _quoted(value: Any) -> Any:
    """Texts that YAML would read as something else (`yes`, `1e3`), in quotation marks."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, list):
        return [_quoted(one) for one in value]
    try:
        plain = not isinstance(value, str) or value_of(value, source="") == value
    except ConfigError:
        plain = False
    return value if plain else DoubleQuotedScalarString(value)


def _tidy(tree: Any, way: Sequence[str]) -> None:
    """Sections on the way that say nothing are left out; those that say one thing are written as that."""
    for depth in range(len(way), 0, -1):
        inner = tree
        for key in way[: depth - 1]:
            inner = inner[key]
        held, only = inner[way[depth - 1]], bare_key(".".join(way[:depth]))
        if not held:
            del inner[way[depth - 1]]
        elif list(held) == [only]:
            inner[way[depth - 1]] = held[only]


def parsed(text: str) -> RunConfig:
    """The config that a text is; raises ConfigError as reading its file would."""
    return parse_config(tree_of(text))


def problems(text: str) -> list[str]:
    """What is wrong with a config's text, a sentence each; none where it can be run."""
    try:
        parsed(text)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def paths(text: str) -> list[str]:
    """What a config names that may be files: every text in it."""
    return list(texts(values(text)))


def texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def with_rows(text: str, files: Sequence[str]) -> str:
    """The text on the newest file of rows, where it names none."""
    data = values(text).get("data")
    named = data.get("train") if isinstance(data, dict) else data
    return changed(text, "data.train", list(files[:1])) if files and not named else text
