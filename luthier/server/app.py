"""The server: OpenAI's routes over the models. It fetches no address and opens no file for anybody."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from luthier.data.conversation import Conversation, Message, Origin, Task, conversation, message
from luthier.errors import UserError
from luthier.server import answers as told
from luthier.server.guard import TEMPLATE_SECONDS, Guard, Key, fault, within
from luthier.server.models import Busy, Models, Unknown
from luthier.server.requests import Chat, Completion, Embedding, Generated, NewAdapter, Score

if TYPE_CHECKING:
    from luthier.inference.batching import Answer

LOCAL = ["localhost", "127.0.0.1", "[::1]", "::1"]
News = tuple[int, str, int, str]
"""Number of an answer, its text so far, its tokens so far, and its end."""


@dataclass(frozen=True)
class Settings:
    """What the command line says of a server."""

    keys: list[Key] = field(default_factory=list)
    adapters: Path | None = None
    """The folder below which adapters may be loaded; None: none are."""
    per_key: int = 64
    """Requests of one key at once."""
    longest: int = 4096
    """Tokens that an answer may have at most."""


class Server:
    """What the routes share: rendering, submitting, counting."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models, self.settings, self.registry = models, settings, CollectorRegistry()
        self.renders, self.others = ThreadPoolExecutor(1), ThreadPoolExecutor(1)  # tokenizers are for one thread
        self.requests = Counter("luthier_requests", "Replies.", ["route", "status"], registry=self.registry)
        self.tokens = Counter("luthier_tokens", "Tokens.", ["kind"], registry=self.registry)
        self.seconds = Histogram("luthier_answer_seconds", "From request to last token.", registry=self.registry)
        Gauge("luthier_taken", "Answers under way or waiting.", registry=self.registry).set_function(
            lambda: models.taken
        )

    async def apart(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What takes its time beside the answers, one after another."""
        return await asyncio.get_running_loop().run_in_executor(self.others, work, *arguments)

    async def begun(self, asked: Generated, prompts: Callable[[], list[list[int]]], **how: Any) -> Asking:
        """The answers to a request, submitted; raises UserError, Busy."""

        def make() -> list[list[Answer]]:
            encoded = within(TEMPLATE_SECONDS, prompts)
            return [self.models.answers(asked, ids, self.settings.longest, **how) for ids in encoded]

        made = await asyncio.get_running_loop().run_in_executor(self.renders, make)
        asking = Asking(self, made, stream=bool(asked.stream))
        self.models.submit(asking.answers)
        self.tokens.labels("prompt").inc(asking.prompt_tokens)
        return asking


class Asking:
    """The answers to one request, while they are made."""

    def __init__(self, server: Server, made: Sequence[Sequence[Answer]], *, stream: bool) -> None:
        self.server, self.answers, self.started = server, [one for some in made for one in some], time.monotonic()
        self.prompt_tokens = sum(len(some[0].prompt) for some in made)
        self.queue: asyncio.Queue[News] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number, answer in enumerate(self.answers):

            def tell(one: Answer, number: int = number) -> None:
                if stream or one.finish:
                    news = (number, one.text() if stream else "", len(one.ids), one.finish)
                    with suppress(RuntimeError):  # the loop may have been closed
                        loop.call_soon_threadsafe(self.queue.put_nowait, news)

            answer.tell = tell

    async def news(self) -> AsyncIterator[News]:
        """What becomes of the answers; raises the error of one."""
        left = len(self.answers)
        while left:
            news = await self.queue.get()
            left -= bool(news[3])
            if (error := self.answers[news[0]].error) is not None:
                raise error
            yield news

    def end(self) -> None:
        """Nobody waits any more: what is unfinished is cancelled."""
        for answer in self.answers:
            answer.cancelled = True
        self.server.seconds.observe(time.monotonic() - self.started)
        self.server.tokens.labels("answer").inc(sum(len(answer.ids) for answer in self.answers))

    async def done(self, request: Request) -> None:
        """Wait for all; raises the error of one, ClientDisconnect."""

        async def read() -> None:
            async for _ in self.news():
                pass

        reading, leaving = asyncio.ensure_future(read()), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ClientDisconnect
            reading.result()
        finally:
            reading.cancel()
            leaving.cancel()
            self.end()

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, each once, and of all answers."""
        said = sum(len(answer.ids) for answer in self.answers)
        asked = self.prompt_tokens
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}

    async def reply(
        self, asked: Generated, request: Request, kind: str, shape: told.TextShape | told.ChatShape
    ) -> Response:
        """The choices as `shape` writes them: at once, or in pieces."""
        base = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model}
        if asked.stream:
            usage = bool((asked.stream_options or {}).get("include_usage"))
            events = self._events(base | {"object": shape.piece_kind}, shape, usage=usage)
            return _Events(events, self.end)
        await self.done(request)
        choices = [shape.whole(answer, number) for number, answer in enumerate(self.answers)]
        return JSONResponse(base | {"object": shape.kind, "choices": choices, "usage": self.usage})

    async def _events(
        self, base: dict[str, Any], shape: told.TextShape | told.ChatShape, *, usage: bool
    ) -> AsyncIterator[str]:
        shown, seen = [""] * len(self.answers), [0] * len(self.answers)

        def sent(value: Any) -> str:
            return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"

        for choice in shape.begins(len(self.answers)):
            yield sent(base | {"choices": [choice]})
        try:
            async for number, text, tokens, finish in self.news():
                new = text[len(shown[number]) :]
                if new or finish:
                    choice = shape.piece(self.answers[number], number, new, (seen[number], tokens), finish)
                    shown[number], seen[number] = text, tokens
                    yield sent(base | {"choices": [choice]})
            if usage:
                yield sent(base | {"choices": [], "usage": self.usage})
        except Exception as error:
            getLogger("uvicorn.error").error("an answer failed", exc_info=error)
            yield f"data: {bytes(fault('the answer failed', 500).body).decode()}\n\n"
        yield "data: [DONE]\n\n"


class _Events(StreamingResponse):
    """A stream that says when it is over, also where nobody ever read from it."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.end = end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


def conversation_of(asked: Chat) -> tuple[Conversation, dict[str, Any]]:
    """The conversation of a request, and its tools by name; raises UserError."""
    origin = Origin("messages", 0)
    turns = [message(value, origin, place) for place, value in enumerate(asked.messages)]
    if turns[-1].role == "assistant":
        raise UserError("messages: the last one is the assistant's; there is nothing to answer")
    given = conversation([*turns, Message(role="assistant", content="-", weight=0)], origin, asked.tools)
    tools = given.tools if asked.tool_choice != "none" else ()
    return Conversation(tuple(turns), tools), {str(tool["function"]["name"]): tool["function"] for tool in tools}


def create(models: Models, settings: Settings = Settings()) -> FastAPI:
    """The application."""
    server = Server(models, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        models.close()

    app = FastAPI(title="Luthier", lifespan=lifespan, docs_url=None, redoc_url=None)
    for routes in (_text, _numbers, _about, _admin):
        routes(app, server)
    for kind in (RequestValidationError, UserError, Busy, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refusal)

    def count(route: str, status: int) -> None:
        server.requests.labels(route, str(status)).inc()

    app.add_middleware(Guard, keys=settings.keys, at_once=settings.per_key, count=count)
    if not settings.keys:  # else a page in a browser could give this address a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
    return app


def _text(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Response:
        """The next message of a conversation."""
        _, renderer = server.models.renderer(asked.model)
        talk, tools = conversation_of(asked)
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        how = {"logprobs": logprobs, "schema": asked.schema_of(tools)}
        asking = await server.begun(asked, lambda: [renderer.prompt(talk.messages, talk.tools)], **how)
        return await asking.reply(asked, request, "chatcmpl", told.ChatShape(tools, logprobs=bool(asked.logprobs)))

    @app.post("/v1/completions")
    async def complete(asked: Completion, request: Request) -> Response:
        """What follows a text."""
        _, renderer = server.models.renderer(asked.model)
        texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        asking = await server.begun(asked, lambda: [renderer.opening(text) for text in texts])
        return await asking.reply(asked, request, "cmpl", told.TextShape())


def _numbers(app: FastAPI, server: Server) -> None:
    @app.post("/v1/embeddings")
    async def embed(asked: Embedding) -> dict[str, Any]:
        """Texts as vectors of length 1."""
        encoder = server.models.of_kind("encoder", asked.model)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        vectors = await server.apart(encoder.encode, texts)
        packed = asked.encoding_format == "base64"
        found = [base64.b64encode(v.tobytes()).decode() if packed else v.tolist() for v in vectors]
        data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(found)]
        used = await server.apart(lambda: sum(len(ids) for ids in encoder.tokenizer(texts)["input_ids"]))
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {"object": "list", "model": asked.model, "data": data, "usage": usage}

    @app.post("/v1/score")
    async def score(asked: Score) -> dict[str, Any]:
        """What a reward model says of answers."""
        scorer = server.models.of_kind("reward model", asked.model)
        texts = [asked.text_2] if isinstance(asked.text_2, str) else asked.text_2
        task = Task(Conversation((Message(role="user", content=asked.text_1),)))
        found = await server.apart(scorer, [task] * len(texts), texts)
        data = [{"object": "score", "index": i, "score": one} for i, one in enumerate(found)]
        return {"object": "list", "model": asked.model, "data": data}


def _about(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models")
    async def names() -> dict[str, Any]:
        """What can be asked."""
        same = {"object": "model", "created": 0, "owned_by": "luthier"}
        return {"object": "list", "data": [{"id": name} | same for name in server.models.names]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether it answers."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Numbers for Prometheus."""
        return generate_latest(server.registry).decode()


def _admin(app: FastAPI, server: Server) -> None:
    @app.post("/admin/adapters", status_code=201)
    async def load(asked: NewAdapter) -> dict[str, str]:
        """Serve an adapter from the folder that the server was started with."""
        root = server.settings.adapters
        if root is None:
            raise UserError("no adapters are loaded here: the server was started without --adapters")
        folder = (root / asked.path).resolve()
        if folder == root.resolve() or not folder.is_relative_to(root.resolve()):
            raise UserError("path: not a folder below that of the adapters")
        await server.apart(server.models.load, asked.name, folder)
        return {"id": asked.name}

    @app.delete("/admin/adapters/{name}")
    async def unload(name: str) -> dict[str, str]:
        """Forget an adapter, once its answers are done."""
        await server.apart(server.models.unload, name)
        return {"id": name}


async def _refusal(_: Request, error: Exception) -> Response:
    """What becomes of an error; what the user cannot mend stands in the log."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    if isinstance(error, RequestValidationError):
        return fault("; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()), 400)
    if isinstance(error, HTTPException):
        return fault(str(error.detail), error.status_code)
    if isinstance(error, UserError):
        return fault(str(error), 404 if isinstance(error, Unknown) else 400)
    return fault(str(error), 429) if isinstance(error, Busy) else fault("the server failed; its log says why", 500)
