"""Who may ask, and how much: keys, sizes and numbers of requests, in front of everything else."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from luthier.errors import UserError

Result = TypeVar("Result")
BODY_BYTES = 2_000_000
TEMPLATE_SECONDS = 10.0
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
OPEN = ("/health",)


@dataclass(frozen=True)
class Key:
    """Of a key, only its hash is known."""

    name: str
    digest: str
    admin: bool = False


def read_keys(path: Path) -> list[Key]:
    """The keys of a file: lines of a name, the sha256 of the key in hex, and `admin` for one that loads adapters.

    Raises:
        UserError: it cannot be read, or says something else.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--keys {path}: {error}") from None
    if not lines or any(
        len(line) not in (2, 3) or len(line[1]) != 64 or line[2:] not in ([], ["admin"]) for line in lines
    ):
        raise UserError(f"--keys {path}: expected lines of: NAME SHA256 [admin]; a hash is printf %s KEY | sha256sum")
    return [Key(line[0], line[1].lower(), len(line) == 3) for line in lines]


def new_keys(path: Path) -> str:
    """A file with one new admin key, readable by its owner alone; gives the key, which stands nowhere else."""
    key = f"lk-{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"admin {hashlib.sha256(key.encode()).hexdigest()} admin\n")
    return key


class Guard:
    """ASGI middleware: 401 without a known key where there are keys, 413 for large bodies, 429 beyond a key's share.

    `count` is told the route and status of every reply.
    """

    def __init__(self, app: Any, keys: list[Key], at_once: int, count: Callable[[str, int], object]) -> None:
        self.app, self.keys, self.at_once, self.count = app, keys, at_once, count
        self.asking: Counter[str] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.count(getattr(scope.get("route"), "path", "none"), message["status"])
            await send(message)

        key, refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, counted)
            return
        self.asking[key] += 1
        try:
            await self.app(scope, _Counted(receive), counted)
        finally:
            self.asking[key] -= 1

    def _refused(self, scope: dict[str, Any]) -> tuple[str, JSONResponse | None]:
        """The name of the key, and why the request is not let through."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        key, length = self._known(headers), headers.get("content-length", "0")
        name = key.name if key else ""
        if self.keys and key is None:
            return name, fault("no known key in the header Authorization: Bearer KEY", 401)
        if scope["path"].startswith("/admin/") and not (key and key.admin):
            return name, fault("adapters are loaded with an admin key, of a server that was started with --keys", 403)
        if not length.isdecimal() or int(length) > BODY_BYTES:
            return name, fault(f"a request has at most {BODY_BYTES} bytes", 413)
        if self.asking[name] >= self.at_once:
            return name, fault(f"this key has {self.at_once} requests under way", 429)
        return name, None

    def _known(self, headers: Mapping[str, str]) -> Key | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode()).hexdigest() if scheme.lower() == "bearer" else ""
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]  # all, in equal time
        return found[0] if found else None


class _Counted:
    """A body in pieces, without a length beforehand, is counted as it comes."""

    def __init__(self, receive: Any) -> None:
        self.receive, self.bytes = receive, 0

    async def __call__(self) -> Any:
        message = await self.receive()
        self.bytes += len(message.get("body", b""))
        if self.bytes > BODY_BYTES:
            raise HTTPException(413, f"a request has at most {BODY_BYTES} bytes")
        return message


def fault(message: str, status: int) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": message[:2000], "type": kind, "param": None, "code": status}
    return JSONResponse({"error": told}, status, {"Retry-After": "1"} if status == 429 else None)


def within(seconds: float, work: Callable[..., Result], *arguments: Any) -> Result:
    """What work gives in this thread; raises UserError where it takes longer, as a template without end does."""
    end = time.monotonic() + seconds

    def look(*_: Any) -> None:
        if time.monotonic() > end:
            raise TimeoutError

    sys.setprofile(look)
    try:
        return work(*arguments)
    except TimeoutError:
        raise UserError(f"the chat template was not done with these messages after {seconds:g} s") from None
    finally:
        sys.setprofile(None)
