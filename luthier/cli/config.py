"""`luthier config schema | explain KEY`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from luthier.config import RunConfig
from luthier.errors import ConfigError, Problem
from luthier.plugins import Choice, Settings, load, names, suggestion
from luthier.units import Duration

app = typer.Typer(help="What can be written in a config.", no_args_is_help=True)


@app.command()
def schema() -> None:
    """The JSON schema of a config, installed plug-ins included."""
    print(json.dumps(RunConfig.model_json_schema(), indent=1))


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="For example train.learning_rate, adapter or adapter.lora.rank.")],
) -> None:
    """What a key means, its type and its default."""
    from luthier.cli.show import console

    for line in explained(key):
        console.print(line, markup=False)


def explained(key: str) -> list[str]:
    """What a key means, what it takes and its default, one line each; a section lists its keys.

    Raises:
        ConfigError: no such key, with the nearest match.
    """
    return _below(key, RunConfig, key.split("."))


def _below(key: str, model: type[Settings], words: list[str]) -> list[str]:
    for depth, word in enumerate(words):
        field, rest = _field(model, word, key), words[depth + 1 :]
        kind = next((mark.kind for mark in _marks(field) if isinstance(mark, Choice)), None)
        if kind is not None:
            return _part(key, field, kind, rest)
        inner = next((t for t in _types(field.annotation) if issubclass(t, Settings)), None)
        if not rest:
            return _section(key, inner, field) if inner else _about(key, field)
        if inner is None:
            raise ConfigError([Problem(key, f"{word} holds a value, not keys")])
        model = inner
    return []


def _field(model: type[Settings], word: str, key: str) -> FieldInfo:
    if word not in model.model_fields:
        raise ConfigError([Problem(key, f"no such key; {suggestion(word, model.model_fields)}")])
    return model.model_fields[word]


def _part(key: str, field: FieldInfo, kind: str, rest: list[str]) -> list[str]:
    """`adapter`, `adapter.lora`, `adapter.lora.rank`, or `adapter.rank` of every adapter that has it."""
    if not rest:
        return [*_about(key, field), f"  kinds: {', '.join(names(kind))}"]
    named = rest[0] in names(kind)
    parts = [load(kind, name) for name in ([rest[0]] if named else names(kind))]
    keys = rest[1:] if named else rest
    if not keys:
        return _section(key, parts[0])
    having = [part for part in parts if keys[0] in part.model_fields]
    below = next((m.kind for p in having for m in _marks(p.model_fields[keys[0]]) if isinstance(m, Choice)), None)
    if below is not None and len(keys) > 1:  # a part that holds parts, such as an objective its rewards
        return _part(key, having[0].model_fields[keys[0]], below, keys[1:])
    if having and len(keys) > 1:  # or a section, such as the model that a cleaner asks
        return _below(key, having[0], keys)
    if not having:
        allowed = {name for part in parts for name in part.model_fields} | (set() if named else set(names(kind)))
        raise ConfigError([Problem(key, f"no such key; {suggestion(keys[0], allowed)}")])
    lines = []
    for part in having:
        name = part.model_fields["type"].default
        lines += _about(key if named else f"{key} of {name}", part.model_fields[keys[0]])
    return lines


def _section(key: str, section: type[Settings], field: FieldInfo | None = None) -> list[str]:
    keys = [
        f"  {key}.{name}: {inner.description or ''}" for name, inner in section.model_fields.items() if name != "type"
    ]
    return [f"{key}: {(field and field.description) or inspect.getdoc(section)}", *keys]


def _about(key: str, field: FieldInfo) -> list[str]:
    default = "required" if field.is_required() else f"default: {field.get_default(call_default_factory=False)}"
    return [f"{key}: {field.description or ''}", f"  takes: {_named(field)}", f"  {default}"]


LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "min_length": "of length at least"}


def _named(field: FieldInfo) -> str:
    """The type in words."""
    if any(isinstance(mark, Choice) for mark in _marks(field)):
        several = not any(isinstance(mark, Choice) for mark in field.metadata)
        return f"{'a list of kinds, each' if several else 'a kind'} by its name or as {{type: NAME, key: value}}"
    return _spelled(field.annotation) + _limits(field.metadata)


def _spelled(annotation: Any) -> str:
    """An annotation as a reader of YAML would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin is Annotated:
        return _spelled(inner[0]) + _limits(inner[1:])
    if origin in (Union, UnionType):
        return " | ".join(map(_spelled, inner))
    if origin is not None:
        return f"{origin.__name__} of {', '.join(map(_spelled, inner))}"
    if annotation is Duration:
        return "a duration such as '3 epochs', '500 steps' or '2e9 tokens'"
    return "null" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))


def _limits(marks: Iterable[Any]) -> str:
    """` above 0` and the like."""
    flat = [one for mark in marks for one in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    return "".join(f" {words} {getattr(m, name)}" for m in flat for name, words in LIMITS.items() if hasattr(m, name))


def _marks(field: FieldInfo) -> list[Any]:
    """The annotations of a field and of the items of its list."""
    inner = [mark for item in getattr(field.annotation, "__args__", ()) for mark in getattr(item, "__metadata__", ())]
    return [*field.metadata, *inner]


def _types(annotation: Any) -> list[type]:
    """The classes inside an annotation."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _types(inner)]
