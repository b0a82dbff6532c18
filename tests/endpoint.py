"""A server of the tests that speaks OpenAI's chat completions on the loopback, and says what it is told to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]
"""Status, body (text, or a value to be sent as JSON), headers."""


class Endpoint:
    """What was asked, and how it is answered: by `reply`, after the `replies` that come first."""

    def __init__(self, reply: Callable[[dict[str, Any]], str]) -> None:
        self.reply, self.replies, self.asked, self.keys = reply, list[Reply](), list[dict[str, Any]](), list[str]()
        self.models: Any = {"data": [{"id": "small"}, {"id": "large"}]}
        self.url, self.under_way, self.most_at_once = "", 0, 0
        self.lock = threading.Lock()

    def answer(self, asked: dict[str, Any]) -> Reply:
        """The next reply to a request."""
        with self.lock:
            self.asked.append(asked)
            if self.replies:
                return self.replies.pop(0)
        return 200, {"choices": [{"message": {"role": "assistant", "content": self.reply(asked)}}]}, {}


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint while it serves, its `url` known."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send(200 if endpoint.models else 404, endpoint.models, {})

        def do_POST(self) -> None:
            endpoint.keys.append(self.headers.get("Authorization", ""))
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.under_way += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.under_way)
            reply = endpoint.answer(asked)
            with endpoint.lock:  # before it is sent: who has it may ask again at once
                endpoint.under_way -= 1
            self.send(*reply)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
