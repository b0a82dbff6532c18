"""Keys, sizes and numbers; what must not be reached is not reached."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from luthier.errors import UserError
from luthier.server.app import Settings
from luthier.server.guard import BODY_BYTES, Key, new_keys, read_keys, within
from luthier.server.models import Models
from tests.server.conftest import serving

WEB = httpx.Client(timeout=60)
KEYS = {"ann": "lk-of-ann", "root": "lk-of-root"}
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "model": "talkative"}


def key(name: str, *, admin: bool = False) -> Key:
    return Key(name, hashlib.sha256(KEYS[name].encode()).hexdigest(), admin)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def models(opened: Callable[..., Models]) -> Models:
    return opened()


@pytest.fixture(scope="module")
def guarded(models: Models, tuned: Path) -> Iterator[str]:
    settings = Settings([key("ann"), key("root", admin=True)], tuned, per_key=1)
    with serving(models, settings) as url:
        yield url


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = new_keys(file)
    (found,) = read_keys(file)
    assert found.admin and found.digest == hashlib.sha256(made.encode()).hexdigest()
    assert made not in file.read_text() and file.stat().st_mode & 0o77 == 0
    for wrong in ("", "ann", "ann abc", f"ann {found.digest} boss"):
        file.write_text(wrong)
        with pytest.raises(UserError, match="NAME SHA256"):
            read_keys(file)


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer lk-of-nobody", "Basic lk-of-ann", "lk-of-ann", "Bearer é"]
)
def test_without_a_known_key_nothing_is_told(guarded: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere", "/admin/adapters"):
        reply = WEB.get(f"{guarded}{path}", headers=headers)
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
    assert WEB.get(f"{guarded}/health").status_code == 200


def test_keys_are_in_no_log(guarded: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        assert WEB.get(f"{guarded}/v1/models", headers=bearer("ann")).status_code == 200
        WEB.post(f"{guarded}/v1/chat/completions", headers=bearer("ann"), json=HELLO | {"model": "x"})
    said = capfd.readouterr()
    own = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert not any(secret in text for secret in KEYS.values() for text in (said.out, said.err, *own))


def test_large_bodies_are_refused_however_they_are_sent(guarded: str) -> None:
    big = b'{"model": "' + b"x" * BODY_BYTES + b'"}'
    headers = bearer("ann") | {"Content-Type": "application/json"}
    assert WEB.post(f"{guarded}/v1/chat/completions", headers=headers, content=big).status_code == 413
    pieces = WEB.post(f"{guarded}/v1/chat/completions", headers=headers, content=iter([big[:100], big[100:]]))
    assert pieces.status_code == 413


def test_one_key_has_its_share(guarded: str, models: Models, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = models.batcher.step
    monkeypatch.setattr(models.engine.renderer, "stop_ids", frozenset({10**6}))  # nothing else ends it
    monkeypatch.setattr(models.batcher, "step", lambda: time.sleep(0.02) or step())
    asked = HELLO | {"max_tokens": 400, "stream": True}
    url, headers = f"{guarded}/v1/chat/completions", bearer("ann")
    with httpx.Client(timeout=60) as client:
        with client.stream("POST", url, headers=headers, json=asked) as first:
            lines = first.iter_lines()  # which hangs up when it goes
            next(lines)
            second = client.post(url, headers=headers, json=HELLO)
            assert second.status_code == 429 and int(second.headers["retry-after"]) >= 1
            assert client.get(f"{guarded}/v1/models", headers=bearer("root")).status_code == 200
        until(lambda: models.taken == 0)
        until(lambda: bool(client.get(f"{guarded}/v1/models", headers=headers).status_code == 200))


def test_adapters_come_and_go_by_an_admins_word(guarded: str, models: Models) -> None:
    def names() -> list[str]:
        return [one["id"] for one in WEB.get(f"{guarded}/v1/models", headers=bearer("root")).json()["data"]]

    def said(model: str) -> str:
        asked = HELLO | {"model": model, "max_tokens": 8, "temperature": 0}
        reply = WEB.post(f"{guarded}/v1/chat/completions", headers=bearer("root"), json=asked)
        return str(reply.json()["choices"][0]["message"]["content"])

    base, admin = said("talkative"), {"url": f"{guarded}/admin/adapters", "headers": bearer("root")}
    assert WEB.post(**admin | {"headers": bearer("ann")}, json={"name": "x", "path": "one"}).status_code == 403
    for name, path in (("first", "one"), ("second", "two")):
        assert WEB.post(**admin, json={"name": name, "path": path}).status_code == 201
    assert names() == ["talkative", "first", "second"]
    assert WEB.post(**admin, json={"name": "first", "path": "one"}).status_code == 400
    assert len({base, said("first"), said("second")}) == 3 and said("talkative") == base
    for name in ("first", "second"):
        assert WEB.delete(f"{guarded}/admin/adapters/{name}", headers=bearer("root")).status_code == 200
    assert names() == ["talkative"] and said("talkative") == base
    assert WEB.delete(f"{guarded}/admin/adapters/talkative", headers=bearer("root")).status_code == 400
    assert WEB.post(**admin, json={"name": "again", "path": "two"}).status_code == 201
    gone = WEB.delete(f"{guarded}/admin/adapters/again", headers=bearer("root"))
    assert gone.status_code == 200, gone.text
    assert models.batcher.model is models.batcher.inner


@pytest.mark.parametrize(
    "path",
    ["..", ".", "", "/", "/etc", "../outside", "one/../../outside", "one/../..", "./../outside", "link", "link/inner",
     "one\0", "%2e%2e/outside", "..%2foutside", "..\\outside", "file:///etc/passwd", "http://127.0.0.1:9/x", "~",
     "//etc/passwd", "one/adapter_config.json", "../adapters0", "a" * 1000],
)  # fmt: skip
def test_no_other_folder_is_read(guarded: str, tuned: Path, path: str, models: Models) -> None:
    outside = tuned.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "adapter_config.json").write_text("{}")
    if not (tuned / "link").exists():
        (tuned / "link").symlink_to(outside)
    given = {"name": "stolen", "path": path}
    reply = WEB.post(f"{guarded}/admin/adapters", headers=bearer("root"), json=given)
    assert reply.status_code == 400, reply.text
    assert "expected a folder with adapter_config.json" not in reply.text and "stolen" not in models.served


def test_an_adapter_that_does_not_fit_leaves_no_trace(models: Models, tuned: Path, tmp_path: Path, tiny: Path) -> None:
    import shutil

    before = [name for name, _ in models.batcher.model.named_modules()]
    for change in ("base", "weights"):
        folder = tmp_path / change
        shutil.copytree(tuned / "one", folder)
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings |= {"base_model_name_or_path": str(tiny)} if change == "base" else {"r": 7}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match="was tuned on" if change == "base" else "cannot be loaded"):
            models.load("wrong", folder)
    assert [name for name, _ in models.batcher.model.named_modules()] == before and "wrong" not in models.served


@pytest.fixture(scope="module")
def canary() -> Iterator[tuple[int, list[str]]]:
    """A server that must not be reached."""
    reached: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, reached
    server.shutdown()


HOSTS = [
    "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "user@127.0.0.1", "127.0.0.1.", "①②⑦.0.0.1", "example.com@127.0.0.1",
    "[::ffff:7f00:1]", "0x7f.1", "LOCALHOST", "127.0.0.1%00", "[0:0:0:0:0:0:0:1]",
]  # fmt: skip


@pytest.mark.parametrize("form", ["http://{}:{}/x", "https://{}:{}/x", "file://{}/{}/etc/passwd"])
def test_no_address_of_a_request_is_fetched(address: str, canary: tuple[int, list[str]], form: str) -> None:
    """Parts of images, sounds and files are refused; an address in a text is a text."""
    port, reached = canary
    for host in HOSTS:
        url = form.format(host, port)
        for part in (
            {"type": "image_url", "image_url": {"url": url}}, {"type": "file", "file": {"file_data": url}},
            {"type": "input_audio", "input_audio": {"data": url}}, {"type": "image_url", "image_url": url},
        ):  # fmt: skip
            asked = HELLO | {"messages": [{"role": "user", "content": [part]}]}
            assert WEB.post(f"{address}/v1/chat/completions", json=asked).status_code == 400
        schema = {"type": "json_schema", "json_schema": {"schema": {"$ref": url}}}
        asked = HELLO | {"max_tokens": 1, "response_format": schema}
        assert WEB.post(f"{address}/v1/chat/completions", json=asked).status_code == 400
        asked = HELLO | {"max_tokens": 1, "messages": [{"role": "user", "content": url}]}
        assert WEB.post(f"{address}/v1/chat/completions", json=asked).status_code == 200
    assert reached == []


def test_pages_of_a_browser_have_no_way_in(address: str) -> None:
    asked = json.dumps(HELLO)
    plain = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    assert WEB.post(f"{address}/v1/chat/completions", content=asked, headers=plain).status_code in (400, 422)
    reply = WEB.get(f"{address}/v1/models", headers={"Origin": "https://evil.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert WEB.get(f"{address}/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_a_template_without_end_is_ended() -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
    template = ImmutableSandboxedEnvironment().from_string(text)
    with pytest.raises(UserError, match=r"not done with these messages after 0\.2 s"):
        within(0.2, template.render)
    assert within(0.2, lambda: 3) == 3


def test_nothing_listens_beyond_this_machine_without_keys(tiny: Path) -> None:
    from luthier.cli.serve import serve

    with pytest.raises(UserError, match="needs keys: --keys FILE"):
        serve(str(tiny), host="0.0.0.0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
    with pytest.raises(UserError, match="--adapters"):
        serve(str(tiny), adapters=tiny)
