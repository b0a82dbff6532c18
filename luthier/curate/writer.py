"""A model that is asked to write: on this machine, or behind an endpoint. What judges and rewrites has it in common."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from luthier.config import Positive, Section
from luthier.data.conversation import Conversation, Message
from luthier.inference.engine import Engine, Sampling, seeds_for
from luthier.inference.exported import engine_for
from luthier.models.find import find
from luthier.supplies import shipped
from luthier.system.address import in_the_open
from luthier.system.kept import database


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ValueError("write http://HOST:PORT/v1 or https://..., without a user, a password or a query")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
        raise ValueError("write the NAME of an environment variable, such as OPENAI_API_KEY, never the key itself")
    return value


class Writer(Section):
    """A model that writes; `writer: NAME` is one on this machine."""

    bare = "model"
    model: str
    """A folder, a hub id, a name from `luthier models list`; or what an endpoint calls it."""
    endpoint: Annotated[str, AfterValidator(_address)] | None = None
    """An address that speaks OpenAI's chat completions, for example http://127.0.0.1:8000/v1; null: this machine. Rows
    are sent there."""
    key_variable: Annotated[str, AfterValidator(_variable)] | None = None
    """Name of the environment variable that holds the endpoint's API key."""
    at_once: Annotated[int, Field(gt=0, le=64)] = 4
    """Requests to an endpoint under way."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long an endpoint may be silent."""
    max_new_tokens: Positive = 512
    """Longest answer in tokens."""

    @model_validator(mode="after")
    def _closed(self) -> Writer:
        if self.key_variable and in_the_open(self.endpoint or ""):
            raise ValueError("a key would be sent in the open; write https://")
        return self

    def require(self) -> None:
        """Refuse what cannot be opened, before other work is done; raises as `open`."""
        if self.endpoint:
            self.open()
        else:
            find(self.model)

    def open(self) -> Engine:
        """What answers, loaded once in a process; answers are kept for the next run.

        Raises:
            UserError: the model cannot be found or loaded, or the variable of the key is not set.
        """
        return Remembering(_opened(self), f"{self.endpoint or ''} {self.model}")

    def sampling(self, *, temperature: float = 0.0, seed: int | None = None) -> Sampling:
        """How it writes."""
        return Sampling(self.max_new_tokens, temperature, seed=seed)


class Remembering:
    """An engine whose answers are kept: none is paid for twice, and a run that goes on has the rows that it had."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name, self.asked = engine, name, Counter[bytes]()
        self.answers = database("answers", "CREATE TABLE IF NOT EXISTS answer (key BLOB PRIMARY KEY, said TEXT)")

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Answers with the index of their prompt; what was answered before first."""
        numbered = seeds_for(sampling, len(prompts), seeds)
        keys = [self._key(prompt, sampling, *([seeds[i]] if seeds else [])) for i, prompt in enumerate(prompts)]
        missing = []
        for number, key in enumerate(keys):
            said = self._known(key)
            if said is None:
                missing.append(number)
            else:
                yield number, said
        left = [prompts[number] for number in missing]  # with the seeds that they would have among all
        own = [seed for number in missing if (seed := numbered[number]) is not None] or None
        for place, said in self.engine.generate(left, sampling, seeds=own):
            number = missing[place]
            if said.strip():
                self.answers.execute("INSERT OR IGNORE INTO answer VALUES (?, ?)", (keys[number], said))
            yield number, self._known(keys[number]) or said  # of several that ask at once, one is right for all

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """One answer, as it comes; it is not kept."""
        return self.engine.stream(prompt, sampling)

    def _key(self, prompt: Conversation, sampling: Sampling, *seed: int) -> bytes:
        """Sixteen bytes of what is asked, and for which time: the same question may have several answers."""
        told = f"{self.name}\0{sampling}\0{[turn.for_template() for turn in prompt.messages]}"
        told += "".join(f"\0{one}" for one in seed)
        same = hashlib.blake2b(told.encode(), digest_size=16).digest()
        self.asked[same] += 1
        return hashlib.blake2b(same + str(self.asked[same]).encode(), digest_size=16).digest()

    def _known(self, key: bytes) -> str | None:
        found = self.answers.execute("SELECT said FROM answer WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])


@cache
def _opened(writer: Writer) -> Engine:
    if writer.endpoint:
        from luthier.inference.endpoint import EndpointEngine

        how = writer.model_dump(include={"key_variable", "at_once", "timeout_seconds"})
        return EndpointEngine(writer.endpoint, writer.model, **how)
    return engine_for(writer.model)


def forget() -> None:
    """Let go of models that were loaded to write."""
    _opened.cache_clear()


def asking(name: str, **texts: str) -> Conversation:
    """What a model is asked, with texts of a row in it."""
    return Conversation((Message(role="user", content=prompts()[name]["ask"].format(**texts).strip()),))


@cache
def prompts() -> dict[str, Any]:
    """What models are asked, by name."""
    found: dict[str, Any] = shipped("luthier.curate", "prompts.yaml")
    return found
