"""The engine on any endpoint that speaks OpenAI's chat completions: a server of one's own, or a service.

The key comes from an environment variable that the config names. It is sent, and nothing else: no message holds it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx2 as httpx

from luthier.data.conversation import Conversation
from luthier.errors import ModelError, UserError
from luthier.inference.calls import spelled
from luthier.inference.engine import Sampling, seeds_for
from luthier.system.address import in_the_open

TRIES = 5
"""Times that a request is sent, where the server is busy (429), fails (5xx) or hangs up."""
FURTHER = ("stop", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty")
"""Settings that are called there as here; the last three are those of vLLM, SGLang and `luthier serve`."""
LONGEST_WAIT = 60.0
"""Most seconds between two tries, whatever a server asks for."""


class EndpointEngine:
    """Answers of a model behind `url`, with a few requests at once."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        at_once: int = 4,
        timeout_seconds: float = 120.0,
        first_wait_seconds: float = 1.0,
    ) -> None:
        self.url, self.model, self.at_once, self.first_wait = url.rstrip("/"), model, at_once, first_wait_seconds
        if key_variable and in_the_open(url):
            raise UserError(f"{url}: a key would be sent in the open; write https://")
        self.reached, self._key = False, _key(key_variable) if key_variable else ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self.client = httpx.Client(headers=headers, timeout=timeout_seconds)

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Answers as they come.

        Raises:
            ModelError: the endpoint cannot be reached, refuses, or does not answer as it should.
        """
        pool = ThreadPoolExecutor(self.at_once)
        try:
            own = seeds_for(sampling, len(prompts), seeds)
            asked = {pool.submit(self._answer, prompt, sampling, own[i]): i for i, prompt in enumerate(prompts)}
            for answer in as_completed(asked):
                yield asked[answer], answer.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def stream(self, prompt: Conversation, sampling: Sampling) -> Iterator[str]:
        """One answer, in pieces as the server sends them; raises as `generate`."""
        response = self._sent(self._request(prompt, sampling, sampling.seed) | {"stream": True})
        calls = dict[int, dict[str, str]]()
        try:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    for choice in self._read(data).get("choices") or ():
                        delta = choice.get("delta") or {}
                        yield delta.get("content") or ""
                        for piece in delta.get("tool_calls") or ():
                            call = calls.setdefault(piece.get("index", 0), {"name": "", "arguments": ""})
                            for key in call:
                                call[key] += (piece.get("function") or {}).get(key) or ""
            yield spelled([*calls.values()])
        except httpx.TransportError as error:
            raise ModelError(f"{self.url}: broke off its answer: {self._plain(error)}") from None
        finally:
            response.close()

    def _answer(self, prompt: Conversation, sampling: Sampling, seed: int | None) -> str:
        told = self._read(self._sent(self._request(prompt, sampling, seed)).text)
        try:
            said = told["choices"][0]["message"]
            return (said.get("content") or "") + spelled([call["function"] for call in said.get("tool_calls") or ()])
        except (LookupError, TypeError):
            raise ModelError(f"{self.url}: its answer has no choices[0].message: {self._plain(told)}") from None

    def _request(self, prompt: Conversation, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        messages = [message.for_template() for message in prompt.messages]
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["function"] = call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}
        drawn = dict[str, Any](temperature=sampling.temperature, top_p=sampling.top_p)
        drawn["max_tokens"], usual = sampling.max_new_tokens, Sampling()
        # what is not asked for is not sent: not every service knows it
        drawn |= {k: getattr(sampling, k) for k in FURTHER if getattr(sampling, k) != getattr(usual, k)}
        if sampling.schema is not None:
            schema = {"name": "answer", "schema": json.loads(sampling.schema)}
            drawn["response_format"] = {"type": "json_schema", "json_schema": schema}
        seeded = {} if seed is None else {"seed": seed}
        tools = {"tools": [dict(tool) for tool in prompt.tools]} if prompt.tools else {}
        return {"model": self.model, "messages": messages, **drawn, **seeded, **tools}

    def _sent(self, request: dict[str, Any]) -> httpx.Response:
        """The response to a request, tried again where that may help; a stream is not yet read."""
        wait, failure = self.first_wait, ""
        for left in reversed(range(TRIES)):
            try:
                sending = self.client.build_request("POST", f"{self.url}/chat/completions", json=request)
                response = self.client.send(sending, stream="stream" in request)
                self.reached = True
                if response.is_success:
                    return response
                failure = self._refusal(response.status_code, response.read().decode(errors="replace"))
                asked = response.headers.get("retry-after", "")
                wait = float(asked) if asked.isdecimal() else wait
            except httpx.TransportError as error:
                if isinstance(error, httpx.ConnectError) and not self.reached:  # else it may be starting again
                    raise ModelError(f"{self.url}: cannot be reached: {self._plain(error)}; is it running?") from None
                failure = f"{type(error).__name__}: {self._plain(error)}"
            if left:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        raise ModelError(f"{self.url}: gave no answer in {TRIES} tries; the last: {failure}")

    def _refusal(self, status: int, said: str) -> str:
        """What a server says that may say something else later; raises ModelError where it will not."""
        if status in (401, 403):  # what it says would tell half of the key
            said = "the key is not taken" if self._key else "it asks for a key: name its variable (key_variable)"
        elif status == 404:
            said = self._known()
        if status != 429 and status < 500:
            raise ModelError(f"{self.url}: {status}: {self._plain(said)}")
        return f"{status}: {self._plain(said)}"

    def _known(self) -> str:
        """Why nothing is found: the model, or the address."""
        try:
            names = [str(one["id"]) for one in self.client.get(f"{self.url}/models").json()["data"]]
        except (httpx.TransportError, ValueError, LookupError, TypeError):
            return "no chat completions there; an endpoint mostly ends in /v1"
        return f"no model {self.model!r} there; it has: {', '.join(sorted(names))}"

    def _read(self, text: str) -> dict[str, Any]:
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ModelError(f"{self.url}: answered with something else than a JSON object: {self._plain(text)}")
        return told

    def _plain(self, said: object) -> str:
        """What a server or a library says, in a line, the key taken out: some say it again."""
        text = " ".join(str(said).split())
        return (text.replace(self._key, "***") if self._key else text)[:200]


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"key_variable: the environment variable {variable} is not set; it should hold the API key")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"key_variable: {variable} holds characters that no key has; look at it (it is not shown here)")
    return key
