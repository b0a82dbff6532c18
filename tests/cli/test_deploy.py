"""`luthier deploy`: a server that answers, with its key; one that does not is named and ended."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier.cli.main import app
from luthier.drive import jobs
from luthier.errors import LuthierError, OutputError


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def deployed(model: str, place: Path, port: int) -> str:
    words = ["deploy", model, "-o", str(place), "--port", str(port), "--wait", "120"]
    return CliRunner().invoke(app, words, catch_exceptions=False).stdout


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs, also as their own processes see them."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


@pytest.mark.slow
def test_it_says_address_key_and_a_line_to_ask(tiny: Path, tmp_path: Path) -> None:
    port = free_port()
    said = deployed(str(tiny), tmp_path / "out", port)
    serving = re.search(rf"serving  (\S+) at (http://127\.0\.0\.1:{port}/v1) \(luthier jobs stop (\S+) ends it", said)
    key = re.search(r"key      (lk-\S+)  \(shown once", said)
    assert serving is not None and key is not None and "/v1/chat/completions" in said
    keys = tmp_path / "out" / "keys"
    assert keys.read_text() == f"first {hashlib.sha256(key[1].encode()).hexdigest()}\n"
    assert keys.stat().st_mode & 0o077 == 0 and f"-H 'Authorization: Bearer {key[1]}'" in said
    asked = urllib.request.Request(f"{serving[2]}/models", headers={"Authorization": f"Bearer {key[1]}"})
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["data"][0]["id"] == serving[1]
    server = jobs.job(serving[3])
    server.stop()
    ended(server)


def test_a_key_that_is_given_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_KEY", "lk-own")
    monkeypatch.setattr("luthier.cli.deploy._answering", lambda *_: "m")
    monkeypatch.setattr(jobs, "submit", lambda *_, **__: jobs.Job(tmp_path / "000001-serve-m"))
    said = deployed("m", tmp_path / "out", 8000)
    assert "lk-own" not in said and '-H "Authorization: Bearer $LUTHIER_KEY"' in said and "shown once" not in said
    assert (tmp_path / "out" / "keys").read_text() == f"first {hashlib.sha256(b'lk-own').hexdigest()}\n"


@pytest.mark.slow
def test_a_server_that_ends_is_named(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=r"did not come up within 120 seconds: .*; luthier jobs log \d+-serve-x has"):
        deployed("no-such-model/x", tmp_path / "out", free_port())
    with pytest.raises(OutputError, match="holds something already"):
        deployed("no-such-model/x", tmp_path / "out", free_port())


@pytest.mark.slow
def test_what_answers_otherwise_is_not_taken_for_it(tiny: Path, tmp_path: Path) -> None:
    """Another server has the port."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(LuthierError, match="does not answer as it should"):
            deployed(str(tiny), tmp_path / "out", other.server_port)
        other.shutdown()
    (server,) = jobs.jobs()
    ended(server)


def ended(server: jobs.Job) -> None:
    """Waits for it, and sees that it was stopped."""
    for _ in range(300):
        if server.status not in jobs.LIVE:
            break
        time.sleep(0.1)
    assert server.status == "stopped"
