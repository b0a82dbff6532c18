"""`luthier deploy`: a server that answers, with its key; one that does not is named and ended."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.errors import LuthierError, OutputError

PYTHON = sys.executable
SERVER = """#!{python} -I
import hashlib, http.server, json, sys

words = sys.argv
digest = open(words[words.index("--keys") + 1]).read().split()[1]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self, body={{"data": [{{"id": "tuned"}}]}}):
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = hashlib.sha256(key.encode()).hexdigest() == digest
        data = json.dumps(body).encode()
        self.send_response({status} if known else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET


if {fails}:
    sys.exit("no model 'x'")
http.server.HTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, status: int = 200, fails: bool = False) -> None:
    script = tmp_path / "server"
    script.write_text(SERVER.format(python=PYTHON, status=status, fails=fails))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def words(tmp_path: Path) -> list[str]:
    return ["deploy", "x", "-o", str(tmp_path / "out"), "--port", str(free_port()), "--wait", "20"]


def test_it_says_address_key_and_a_line_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch, tmp_path)
    said = CliRunner().invoke(app, words(tmp_path), catch_exceptions=False).stdout
    process = re.search(r"serving  tuned at http://127\.0\.0\.1:\d+/v1, process (\d+)", said)
    assert process is not None
    os.kill(int(process[1]), 15)
    key = re.search(r"key      (lk-\S+)  \(shown once", said)
    keys = tmp_path / "out" / "keys"
    assert key is not None and keys.read_text() == f"first {hashlib.sha256(key[1].encode()).hexdigest()}\n"
    assert keys.stat().st_mode & 0o077 == 0
    assert f"-H 'Authorization: Bearer {key[1]}'" in said and "/v1/chat/completions" in said


def test_a_server_that_ends_or_refuses_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stands_in(monkeypatch, tmp_path, fails=True)
    with pytest.raises(LuthierError, match=r"did not come up within 20 seconds: no model 'x'; see .*log\.txt"):
        CliRunner().invoke(app, words(tmp_path), catch_exceptions=False)
    with pytest.raises(OutputError, match="holds something already"):
        CliRunner().invoke(app, words(tmp_path), catch_exceptions=False)
    (tmp_path / "out").rename(tmp_path / "before")
    stands_in(monkeypatch, tmp_path, status=500)
    with pytest.raises(LuthierError, match="does not answer as it should"):
        CliRunner().invoke(app, words(tmp_path), catch_exceptions=False)
