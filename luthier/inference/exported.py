"""Engines by what a model is named: one of transformers, an export (ONNX, GGUF) on its own runtime, or an endpoint."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from luthier.config import ModelConfig
from luthier.data.conversation import Conversation
from luthier.errors import MissingExtra, UserError
from luthier.inference.engine import Engine, Sampling, seeds_for

RUNTIMES = {"onnx": ("model.onnx", "onnxruntime", "onnx"), "gguf": ("model.gguf", "xllamacpp", "gguf")}
"""What an export is recognised by, what runs it, and the extra that brings that."""
KNOWN = {"max_new_tokens", "temperature", "top_p", "seed"}
"""What the code of exports can be told."""


def engine_for(name: str, *, key_variable: str | None = None) -> Engine:
    """What answers: `http://HOST:PORT/v1#MODEL`, a folder that `luthier export` wrote, or any other model.

    Raises:
        UserError: it cannot be found, or the variable of the endpoint's key is not set.
        MissingExtra: the runtime of an export is not installed.
    """
    if name.startswith(("http://", "https://")):
        from luthier.inference.endpoint import EndpointEngine

        url, _, model = name.partition("#")
        return EndpointEngine(url, model, key_variable=key_variable)
    for runtime, (file, _, _) in RUNTIMES.items():
        if (Path(name) / file).is_file():
            return ExportedEngine(Path(name), runtime)
    from luthier.inference.hf import HfEngine
    from luthier.models.load import ModelLoader

    loader, config = ModelLoader(), ModelConfig(path=name)
    return HfEngine(loader.load_for_use(config), loader.renderer(config))


class ExportedEngine:
    """Answers of an export, one after the other, by the code that is written beside it."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.name = f"{folder} (on {RUNTIMES[runtime][1]})"
        self.model = opened(folder, runtime)

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Answers in order; raises UserError for settings that its runtime's code does not know."""
        for i, seed in enumerate(seeds_for(sampling, len(prompts), seeds)):
            yield i, "".join(self._pieces(prompts[i], sampling, seed))

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """One answer, as its tokens come."""
        return self._pieces(prompt, sampling, sampling.seed)

    def _pieces(self, prompt: Conversation, sampling: Sampling, seed: int | None) -> Iterator[str]:
        usual = Sampling()
        unknown = [k for k in Sampling.__slots__ if k not in KNOWN and getattr(sampling, k) != getattr(usual, k)]
        if unknown:
            raise UserError(f"{self.name} knows {', '.join(sorted(KNOWN))}, not {', '.join(unknown)}")
        messages = [message.for_template() for message in prompt.messages]
        ids = self.model.encode(self.model.text(messages, [dict(tool) for tool in prompt.tools] or None))
        said: list[int] = []
        shown = ""
        for token in self.model.generate(ids, sampling.max_new_tokens, sampling.temperature, sampling.top_p, seed):
            if token in self.model.stop_ids:
                break
            said.append(token)
            text = self.model.decode(said)
            if len(text) > len(shown) and not text.endswith("\ufffd"):  # half of a character
                yield text[len(shown) :]
                shown = text
        yield self.model.decode(said)[len(shown) :] if said else ""


def opened(folder: Path, runtime: str) -> Any:
    """The model of an export in the code that is written beside it; raises ModelError, MissingExtra."""
    from luthier.models.load import Readable

    try:
        made = code(runtime)
    except ImportError:
        raise MissingExtra(str(folder), *RUNTIMES[runtime][1:]) from None
    with Readable(str(folder)):
        return made(folder)


def code(runtime: str) -> Any:
    """The class `Model` of the code that exports carry; that code is ours, never a folder's."""
    with as_file(files("luthier.inference").joinpath("code", f"{runtime}.py.txt")) as file:
        return runpy.run_path(str(file))["Model"]
