"""`luthier config schema | explain KEY`."""

from __future__ import annotations

import inspect
import json
import re
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from luthier.config import RunConfig
from luthier.errors import ConfigError, Problem
from luthier.plugins import Choice, Settings, load, names, suggestion

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
    model: type[Settings] = RunConfig
    words = key.split(".")
    for depth, word in enumerate(words):
        here = ".".join(words[:depth])
        if word not in model.model_fields:
            raise ConfigError(
                [Problem(key, f"no such key; {suggestion(word, model.model_fields)}")], source=here or "config"
            )
        field = model.model_fields[word]
        kind = next((mark.kind for mark in _marks(field) if isinstance(mark, Choice)), None)
        if kind is not None:  # adapter, adapter.lora or adapter.lora.rank
            if depth + 1 == len(words):
                return [*_about(key, field), f"  kinds: {', '.join(names(kind))}"]
            if words[depth + 1] not in names(kind):
                raise ConfigError(
                    [Problem(key, f"no such {kind}; {suggestion(words[depth + 1], names(kind))}")], source=key
                )
            part = load(kind, words[depth + 1])
            rest = words[depth + 2 :]
            if rest and rest[0] not in part.model_fields:
                raise ConfigError([Problem(key, f"no such key; {suggestion(rest[0], part.model_fields)}")], source=key)
            return _about(key, part.model_fields[rest[0]]) if rest else _section(key, part)
        inner = next((t for t in _types(field.annotation) if issubclass(t, Settings)), None)
        if depth + 1 == len(words):
            return _section(key, inner, field) if inner else _about(key, field)
        if inner is None:
            raise ConfigError([Problem(key, f"{word} holds a value, not keys")], source=here or "config")
        model = inner
    return []


def _section(key: str, section: type[Settings], field: FieldInfo | None = None) -> list[str]:
    keys = [
        f"  {key}.{name}: {inner.description or ''}" for name, inner in section.model_fields.items() if name != "type"
    ]
    return [f"{key}: {(field and field.description) or inspect.getdoc(section)}", *keys]


def _about(key: str, field: FieldInfo) -> list[str]:
    default = "required" if field.is_required() else f"default: {field.get_default(call_default_factory=False)}"
    return [f"{key}: {field.description or ''}", f"  takes: {_named(field)}", f"  {default}"]


def _named(field: FieldInfo) -> str:
    name = str(field.annotation) if not isinstance(field.annotation, type) else field.annotation.__name__
    limits = [str(mark) for mark in field.metadata if not isinstance(mark, Choice)]
    return re.sub(r"typing\.|luthier\.\w+\.|, FieldInfo\(.*?\)\]", "", name) + (
        f" ({', '.join(limits)})" if limits else ""
    )


def _marks(field: FieldInfo) -> list[Any]:
    """The annotations of a field and of the items of its list."""
    inner = [mark for item in getattr(field.annotation, "__args__", ()) for mark in getattr(item, "__metadata__", ())]
    return [*field.metadata, *inner]


def _types(annotation: Any) -> list[type]:
    """The classes inside an annotation."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _types(inner)]
