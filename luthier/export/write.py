"""One export from beginning to end: what was trained, the files, the code that runs them, a certificate, a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.conversation import Conversation, Message
from luthier.errors import ModelError, OutputError
from luthier.export import certificate
from luthier.export.base import Exporter, Subject
from luthier.export.safety import require_safe
from luthier.system.files import atomic_folder, write_text

if TYPE_CHECKING:
    from jinja2 import Template


def export(subject: Subject, exporter: Exporter, place: Path, prompts: Sequence[Conversation] = ()) -> dict[str, Any]:
    """Write a model in a format, prove that it answers as in training, and return what was measured.

    `prompts` are those it is proven with; without them those of the run's own certificate, or a few plain ones.

    Raises:
        OutputError: the folder holds something.
        UserError: the format does not take the model.
        CertificateError: what was written is not what was trained; nothing is left.
    """
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OutputError(f"{place}: holds something already; choose a new folder")
    source = subject.found.adapter or Path(subject.found.location)
    for held in {source} if subject.found.kind == "hub" else {source, Path(subject.found.location)}:
        if held.exists():
            require_safe(held)
    records = _records(subject, source, prompts)
    with atomic_folder(place) as folder:
        exporter.write(subject, folder)
        write_code(folder, exporter.runs_on)
        about = {"format": exporter.type, "settings": exporter.model_dump(mode="json"), **lineage(subject)}
        write_text(folder / "README.md", page("README.md", about | {"runs_on": exporter.runs_on, "folder": place.name}))
        certificate.certify(folder, records, runs_on=exporter.runs_on, tolerance=exporter.tolerance, about=about)
    return dict(certificate.read(place)["measured"])


def _records(subject: Subject, source: Path, prompts: Sequence[Conversation]) -> list[dict[str, Any]]:
    """What the model said: at the end of its training, where that is on record and nothing else is asked."""
    if not prompts and (source / certificate.NAME).is_file():
        told = certificate.read(source)
        if told["tolerance"] == "exact":
            return list(told["prompts"])
    subject.template  # noqa: B018 - a model without one is refused before it is loaded
    asked = prompts or [
        Conversation((Message(role="user", content=text),)) for text in page("prompts.txt", {}).splitlines()
    ]
    return certificate.reference(subject.tuned, subject.renderer, asked)


def lineage(subject: Subject) -> dict[str, Any]:
    """Where a model comes from, as its run says."""
    from luthier.tracking.run import RunFolder

    record = RunFolder(subject.found.adapter or subject.path).record() or {}
    told = {"source": subject.path, "base": subject.found.location, "revision": subject.found.revision}
    return told | {"data": record.get("data"), "config": record.get("config")}


def write_code(folder: Path, runs_on: str) -> None:
    """`infer.py`, which runs what stands beside it and needs nothing of Luthier."""
    code = files("luthier.inference").joinpath("code")
    parts = [code.joinpath(f"{name}.py.txt").read_text(encoding="utf-8") for name in (runs_on, "main")]
    write_text(folder / "infer.py", "".join(parts))


def page(name: str, values: Mapping[str, Any]) -> str:
    """One of the texts that exports carry, filled in; raises ModelError where a value cannot stand there."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    environment.filters |= {"quoted": _quoted, "go": lambda value: json.dumps(value, ensure_ascii=False)}
    text = files("luthier.export").joinpath("texts", f"{name}.txt").read_text(encoding="utf-8")
    template: Template = environment.from_string(text)
    return template.render(values)


def _quoted(value: Any) -> str:
    """As JSON, which YAML, shells' double quotes and Dockerfiles read as one string."""
    text = json.dumps(str(value), ensure_ascii=False)
    if any(sign in text for sign in "$`"):
        raise ModelError(f"{value!r} holds a sign that shells read as a command; rename it")
    return text
