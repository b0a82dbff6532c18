"""Whether a model's own chat template writes turns the way that a template of another tool does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from luthier.migrate.base import Draft, Refused


def own_template(draft: Draft, key: str, name: str, model: str) -> str:
    """A note for the report about a template by its name, where the model's own is what it stands for.

    Raises:
        Refused: no such name, or the model on this machine writes turns otherwise.
    """
    words = draft.table.words
    marks: Mapping[str, Sequence[str]] = words["marks"]
    mark = next((mark for mark, names in marks.items() if name in names), None)
    remedy = f"write {key}=null, and in model.chat_template the .jinja file that writes turns as you want them"
    if name in words["bare"]:
        raise Refused(key, f"{name} writes nothing around turns, which a model cannot be served with; {remedy}")
    if mark is None:
        raise Refused(key, f"{draft.table.title} has no template {name!r}")
    written = _written(model)
    if written is None:
        return f"the model's own chat template; the model is not on this machine, so look for {mark} in luthier check"
    if mark not in written:
        raise Refused(key, f"{name} writes {mark}, but the chat template of {model} does not; {remedy}")
    return f"the model's own chat template, which writes {mark} too"


def _written(model: str) -> str | None:
    """A question and its answer as a model on this machine writes them; empty where it has no template."""
    source = _source(model)
    return source if not source else _rendered(source)


def _source(model: str) -> str | None:
    """The chat template of a model folder or of a model in the hub's cache."""
    there = False
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = _file(model, name)
        there = there or file is not None
        if file is None:
            continue
        text = file.read_text(encoding="utf-8")
        found = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        if isinstance(found, list):  # several by their names
            found = next((one["template"] for one in found if one.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return "" if there else None


def _file(model: str, name: str) -> Path | None:
    place = Path(model).expanduser() / name
    if place.is_file():
        return place
    if Path(model).expanduser().exists() or model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    return Path(cached) if isinstance(cached, str) else None


def _rendered(source: str) -> str:
    """What a template writes; its source where it needs more than a question and an answer."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    turns: list[dict[str, Any]] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    surroundings = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    try:
        return surroundings.from_string(source).render(
            messages=turns, raise_exception=refuse, bos_token="", eos_token=""
        )
    except (TemplateError, TypeError, ValueError):
        return source
