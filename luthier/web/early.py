"""A page for who comes while the board is being built, which takes seconds: it looks again until the board is there."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from unittest.mock import patch

from luthier.web.texts import Speaker, preferred

PAGE = (
    '<!doctype html><html lang="{language}"><meta charset="utf-8"><meta http-equiv="refresh" content="1">'
    '<title>Luthier</title><body style="font: 1.2rem system-ui, sans-serif; margin: 3rem"><h1>Luthier</h1><p>{said}'
)


@contextmanager
def waiting(door: socket.socket) -> Iterator[None]:
    """Answer every visit with the page; the socket stays open for whoever is to answer next."""
    # a thread for each visit: browsers open connections on which they say nothing
    server = ThreadingHTTPServer(door.getsockname()[:2], _Waiting, bind_and_activate=False)
    server.socket.close()
    server.socket = door
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def import_gradio() -> None:
    """In half of its time: it would read its own sources, and write type stubs beside them. It tells nobody."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with patch("inspect.getfile", side_effect=OSError):
        import gradio  # noqa: F401


class _Waiting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The page, in the language of the browser."""
        say = Speaker(preferred(self.headers.get("Accept-Language", "")))
        body = PAGE.format(language=say.language, said=html.escape(say("app.starting"))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Visits are nobody's business."""
