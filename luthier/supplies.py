"""What the code is supplied with: tables and pages that lie beside it, and libraries that may be missing."""

from __future__ import annotations

import html
import importlib
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from luthier.errors import MissingExtra

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def shipped(package: str, name: str) -> Any:
    """The plain values of a YAML file that lies in one of our packages; they are shared, so nobody may change them."""
    return yaml.load(files(package).joinpath(name).read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506 - a safe one


def filled(package: str, name: str, **values: Any) -> str:
    """A page that lies in one of our packages, a template of jinja, with values as they are: they must be safe."""
    from jinja2 import Environment

    text = files(package).joinpath(name).read_text(encoding="utf-8")
    page = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - see above
    page.filters["e"] = html.escape
    return page.from_string(text).render(values)


def library(module: str, option: str, extra: str, *, called: str = "") -> Any:
    """The module of an optional library, imported; `called` is what the library is called where its module is not.

    Raises:
        MissingExtra: it is not installed, and what `option` says needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(option, called or module, extra) from None
