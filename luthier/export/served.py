"""Folders that a server starts from: Ollama, vLLM, and a container with Luthier's own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.conversation import Message
from luthier.errors import ModelError, RowError
from luthier.export.base import Exporter, Subject
from luthier.export.folders import Adapter, Merged
from luthier.export.gguf import Gguf
from luthier.export.write import page
from luthier.system.files import write_text

MARKS = {"system": "\ue001", "user": "\ue002", "assistant": "\ue003"}
"""Stand for what is said, so that what a template writes around it is seen."""


class Ollama(Gguf):
    """A GGUF file with a Modelfile: `ollama create NAME -f Modelfile`."""

    type: Literal["ollama"] = "ollama"  # type: ignore[assignment]

    def write(self, subject: Subject, folder: Path) -> None:
        """Raises ModelError for a chat template that cannot be said in Ollama's language."""
        pieces = turns(subject)
        super().write(subject, folder)
        stops = subject.renderer.tokenizer.convert_ids_to_tokens(subject.stops)
        context = subject.model.config.get_text_config().max_position_embeddings
        write_text(folder / "Modelfile", page("Modelfile", {"pieces": pieces, "stops": stops, "context": context}))
        write_text(folder / "client.py", page("client.py", {"url": "http://127.0.0.1:11434/v1", "model": folder.name}))


class Vllm(Adapter):
    """What was trained, with a file that starts vLLM on it."""

    type: Literal["vllm"] = "vllm"  # type: ignore[assignment]

    def write(self, subject: Subject, folder: Path) -> None:
        """An adapter is served beside its base; a whole model as it is."""
        tuned = subject.found.adapter is not None
        writer: Exporter = Adapter() if tuned else Merged()
        writer.write(subject, folder)
        values = {"base": subject.found.location if tuned else "", "revision": subject.found.revision or ""}
        write_text(folder / "serve.sh", page("serve.sh", values))
        write_text(folder / "client.py", page("client.py", {"url": "http://127.0.0.1:8000/v1", "model": "tuned"}))


class Docker(Merged):
    """A folder that builds: the merged model with `luthier serve`; for Compose and Kubernetes too."""

    type: Literal["docker"] = "docker"  # type: ignore[assignment]
    files: ClassVar[tuple[str, ...]] = ("Dockerfile", "compose.yaml", "kubernetes.yaml")

    def write(self, subject: Subject, folder: Path) -> None:
        """The keys of the server are a file of the machine that runs it, never part of the image."""
        from luthier import __version__

        super().write(subject, folder)
        for name in self.files:
            write_text(folder / name, page(name, {"version": __version__}))
        write_text(folder / "client.py", page("client.py", {"url": "http://127.0.0.1:8000/v1", "model": "model"}))


def turns(subject: Subject) -> dict[str, str]:
    """What a chat template writes before and after what each role says, at the start without a system prompt, and last.

    Raises:
        ModelError: it is not made of turns alone, which is all that Ollama's language says of it here.
    """

    def written(*roles: str, answer: bool = False) -> str:
        messages = [Message(role=role, content=MARKS[role]) for role in roles]
        return subject.renderer.template(messages, (), answer_next=answer)

    try:
        first, start = written("system", "user", "assistant"), written("user", "assistant")
        whole = written("system", "user", "assistant", "user", answer=True)
        user = written("system", "user", "assistant", "user")[len(first) :].split(MARKS["user"])
        system, rest = first.split(MARKS["system"])
        system_end, rest = rest.split(user[0] + MARKS["user"] + user[1])
        assistant, assistant_end = rest.split(MARKS["assistant"])
        pieces = {
            "default": start.split(user[0] + MARKS["user"])[0], "system": system, "system_end": system_end,
            "user": user[0], "user_end": user[1], "assistant": assistant, "assistant_end": assistant_end,
            "last": whole[len(first) + len(user[0] + user[1]) + 1 :],
        }  # fmt: skip
        said = {role: f"{pieces[role]}{mark}{pieces[role + '_end']}" for role, mark in MARKS.items()}
        alike = whole == "".join([*said.values(), said["user"], pieces["last"]])
        alike = alike and start == pieces["default"] + said["user"] + said["assistant"]
    except (ValueError, IndexError, RowError):
        alike, pieces = False, {}
    if not alike or any(sign in "".join(pieces.values()) for sign in ("{{", '"""')):
        raise ModelError(
            f"{subject.path}: its chat template is not made of turns alone, so Ollama cannot say it; use --to gguf, "
            "which llama.cpp runs with the template itself"
        )
    return pieces
