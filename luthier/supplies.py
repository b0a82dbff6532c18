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


def filled(package: str, name: str, *, escape: bool = False, **values: Any) -> str:
    """A page that lies in one of our packages, a template of jinja, with values as they are, or escaped for HTML."""
    from jinja2 import Environment, StrictUndefined

    text = files(package).joinpath(name).read_text(encoding="utf-8")
    page = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,  # noqa: S701 - not every page is HTML
    )
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
