"""Forms of commands, from what the command line says of itself: arguments, options, their help, types and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from luthier.web.forms import Field, Kind


def command_of(root: Any, words: str) -> Any:
    """The command of some words below another, as typer has built both; raises KeyError where there is none."""
    for word in words.split():
        root = root.commands[word]
    return root


def fields(root: Any, words: str) -> list[Field]:
    """What a command can be told."""
    command = command_of(root, words)
    types = get_type_hints(command.callback)
    return [_field(one, types[one.name]) for one in command.params if one.name in types]


def _field(one: Any, annotation: Any) -> Field:
    several = get_origin(annotation) is list
    ways = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    plain = next(way for way in ways if way is not type(None))
    kind: Kind = "lines" if several or get_origin(plain) is list else "text"
    if plain is bool:
        kind = "flag"
    elif plain in (int, float):
        kind = "number"
    elif get_origin(plain) is Literal:
        kind = "choice"
    options = list(get_args(plain)) if kind == "choice" else []
    more = {"options": options, "whole": plain is int, "needed": one.required}
    return Field(str(one.name), kind, None, one.default, one.help or "", **more)


def line(root: Any, words: str, values: Mapping[str, Any]) -> list[str]:
    """The arguments of `luthier` for what a form holds; what is not said, or is the default, is left out."""
    arguments: list[str] = []
    options: list[str] = []
    for one in command_of(root, words).params:
        said = values.get(one.name)
        if said in (None, "", []) or (said == one.default and not one.required):
            continue
        several = [str(part) for part in said] if isinstance(said, list) else [str(said)]
        if one.param_type_name == "argument":
            arguments += several
        elif one.is_flag:
            options += [one.opts[0]] if said else one.secondary_opts[:1]
        else:
            options += [word for part in several for word in (max(one.opts, key=len), part)]
    return [*words.split(), *options, *(["--"] if any(word.startswith("-") for word in arguments) else []), *arguments]
