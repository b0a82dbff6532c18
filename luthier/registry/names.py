"""What a model of the registry is called: `models:/medical/3`, or `models:/medical@champion`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.errors import ModelError

SCHEME = "models:/"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
"""Also the name of a folder, on systems that take small and capital letters for the same, too."""
_ALIAS = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Name:
    """One version of a model, by its number or by an alias of it."""

    name: str
    version: int = 0
    alias: str = ""


def parse(text: str) -> Name:
    """Read `models:/NAME/VERSION` or `models:/NAME@ALIAS`; the scheme may be left out.

    Raises:
        ModelError: it is neither, or holds anything that a path could be made of.
    """
    rest = text.removeprefix(SCHEME)
    name, at, alias = rest.partition("@")
    if at:
        return Name(require_name(name), alias=require_alias(alias))
    name, _, number = rest.partition("/")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise ModelError(f"{text}: say which version: {SCHEME}{require_name(name)}/3, or {SCHEME}{name}@champion")
    return Name(require_name(name), version=int(number))


def require_name(name: str) -> str:
    """The name of a model; raises ModelError where it may not be one."""
    if len(name) <= 64 and _NAME.fullmatch(name):
        return name
    raise ModelError(
        f"{name!r} is no name of a model: small letters, digits, -, _ and single dots, at most 64, for example "
        "medical-qa; a path is none"
    )


def require_alias(alias: str) -> str:
    """An alias; raises ModelError where it may not be one."""
    if len(alias) <= 64 and _ALIAS.fullmatch(alias):
        return alias
    raise ModelError(f"{alias!r} is no alias: small letters, digits, - and _, behind a letter, for example champion")
