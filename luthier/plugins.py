"""One table of every swappable part, and the config type that picks from it.

A part is one class in one file. Built-in parts stand in `plugins.yaml`; anyone else's package adds its own with an
entry point in the group `luthier.<kind>`:

    [project.entry-points."luthier.objective"]
    focal = "my_package.focal:Focal"

Only the module of the part that was asked for is imported, and that module imports its heavy libraries inside its
functions, so a config is validated without torch. This file knows no room: it resolves names, nothing else.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from luthier.errors import UserError
from luthier.supplies import shipped

BUILT_IN: dict[str, dict[str, str]] = shipped("luthier", "plugins.yaml")
"""Kinds of parts, and of each kind the names and classes."""

OWN_ERRORS = frozenset({"unknown_key", "choice"})
"""Types of validation errors whose message is ours and complete."""


class Settings(BaseModel):
    """Base of every config section: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        """Refuse unknown keys with the nearest match; pydantic's own message would not say what is allowed."""
        unknown = [key for key in value if key not in cls.model_fields] if isinstance(value, dict) else []
        if unknown:
            raise ValidationError.from_exception_data(cls.__name__, [cls._unknown(str(key)) for key in unknown])
        return value

    @classmethod
    def _unknown(cls, key: str) -> InitErrorDetails:
        hint = {"hint": suggestion(key, cls.model_fields)}
        return InitErrorDetails(
            type=PydanticCustomError("unknown_key", "unknown key; {hint}", hint), loc=(key,), input=key
        )


class Part(Settings):
    """Base of every part that a config picks by `type:`."""

    type: str


class UnknownPart(UserError):
    """A name that no part of this kind has."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"unknown {kind} {name!r}; {suggestion(name, names(kind))}")


def suggestion(given: str, allowed: Iterable[str]) -> str:
    """'did you mean ...?' where something is near, and always what is allowed."""
    options = sorted(allowed)
    near = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(options)}"


@cache
def _table(kind: str) -> dict[str, str]:
    added = {point.name: point.value for point in entry_points(group=f"luthier.{kind}")}
    return added | BUILT_IN[kind]  # a built-in name cannot be taken over


def names(kind: str) -> list[str]:
    """The names of all parts of a kind, installed plug-ins included."""
    return list(_table(kind))


def target(kind: str, name: str) -> str:
    """Where a part lives, as `module:Class`."""
    return _table(kind)[name]


def load(kind: str, name: str) -> type[Any]:
    """Import the class of one part.

    Raises:
        UnknownPart: no part of that name.
        UserError: an installed plug-in whose module cannot be imported.
    """
    if name not in _table(kind):
        raise UnknownPart(kind, name)
    module, _, attribute = target(kind, name).partition(":")
    try:
        found: type[Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the {kind} plug-in {name!r} ({module}:{attribute}) cannot be loaded: {error}") from error
    return found


class Choice:
    """Marks a config field that holds a part: `lora` or `{type: lora, rank: 8}`.

    Used as `Annotated[Part, Choice("adapter")]`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def validate(self, value: object) -> Part:
        """Turn a name, a mapping with `type`, or a ready part into the part itself."""
        if isinstance(value, Part):
            return value
        given = {"type": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("type"), str):
            raise PydanticCustomError(
                "choice",
                "{given} does not say which {kind}; write its name or a mapping with 'type'; allowed: {allowed}",
                {"given": repr(value), "kind": self.kind, "allowed": ", ".join(names(self.kind))},
            )
        try:
            part = load(self.kind, given["type"])
        except UserError as error:
            raise PydanticCustomError("choice", "{message}", {"message": str(error)}) from error
        if not issubclass(part, Part):
            raise PydanticCustomError("choice", "the {kind} plug-in is not a luthier Part", {"kind": self.kind})
        if lacking := sorted(getattr(part, "__abstractmethods__", ())):
            message = "the {kind} plug-in {name} lacks what every {kind} needs: {lacking}"
            named = {"kind": self.kind, "name": repr(given["type"]), "lacking": ", ".join(lacking)}
            raise PydanticCustomError("choice", message, named)
        return part.model_validate(given)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda part: part.model_dump(mode="json"))
        return core_schema.no_info_plain_validator_function(self.validate, serialization=dump)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kinds = [handler(load(self.kind, name).__pydantic_core_schema__) for name in names(self.kind)]
        return {"oneOf": [{"enum": names(self.kind)}, *kinds], "title": self.kind}
