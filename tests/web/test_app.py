"""The board as an application: who may ask it, what it takes, and that every form of it can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from luthier.cli.main import app as commands
from luthier.web import forms
from luthier.web.texts import LANGUAGES, Speaker
from tests.house.source import ROOT

gr = pytest.importorskip("gradio")
web = pytest.importorskip("luthier.web.app")
from fastapi.testclient import TestClient  # noqa: E402

from luthier.web.board import Board  # noqa: E402
from luthier.web.commands import fields  # noqa: E402
from luthier.web.pages import component  # noqa: E402

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
HERE = "http://127.0.0.1:7860"


@pytest.fixture
def visitor(tmp_path: Path) -> Callable[..., TestClient]:
    root = typer.main.get_command(commands)
    return lambda **more: TestClient(web.application(tmp_path, root, **more), base_url=HERE)


def test_another_site_is_refused(visitor: Callable[..., TestClient]) -> None:
    """By a name that it gave to this machine (DNS rebinding), or from its own page; whatever it asks."""
    asks = visitor()
    assert asks.get("/en/").status_code == 200
    for headers in ({"host": "evil.example:7860"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert asks.get("/en/", headers=headers).status_code == 403
        sent = {"files": ("x.csv", b"a,b\n")}
        assert asks.post("/en/gradio_api/upload", files=sent, headers=headers).status_code == 403
        assert asks.post("/en/gradio_api/queue/join", json={"data": []}, headers=headers).status_code == 403
    assert asks.post("/en/gradio_api/upload", files=sent, headers={"origin": HERE}).status_code == 200


def test_with_users_only_they_see_it(visitor: Callable[..., TestClient]) -> None:
    asks = visitor(users=[("ann", "pass word")])
    name = {"host": "board.example"}
    assert asks.get("/en/config", headers=name).status_code == 401
    wrong = asks.post("/en/login", data={"username": "ann", "password": "x"}, headers=name)
    right = asks.post("/en/login", data={"username": "ann", "password": "pass word"}, headers=name)
    assert (wrong.status_code, right.status_code) == (400, 200)


def test_an_upload_has_a_limit(visitor: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 1000)
    asks = visitor()
    for size, status in ((900, 200), (2000, 413)):
        assert asks.post("/en/gradio_api/upload", files={"files": ("x.csv", b"a" * size)}).status_code == status


def test_files_of_the_machine_are_not_given(visitor: Callable[..., TestClient], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret", encoding="utf-8")
    asks = visitor()
    for path in ("/etc/passwd", str(tmp_path / "keys"), "../../../../etc/passwd", "keys"):
        answer = asks.get(f"/en/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and "secret" not in answer.text and "root:" not in answer.text


def test_nothing_of_elsewhere_is_loaded(visitor: Callable[..., TestClient]) -> None:
    policy = visitor().get("/zh/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("text", ["", *(file.read_text(encoding="utf-8") for file in EXAMPLES)])
def test_every_section_can_be_drawn(tmp_path: Path, text: str) -> None:
    """With its defaults, and with what the examples say; and with values of other types."""
    board = Board(tmp_path, None, Speaker("en"))
    for section in forms.sections():
        for field in forms.fields(section, text):
            assert isinstance(component(board, field), gr.components.Component)
    for strange in ("model: 3\noutput: 3\n", "data: {held_out: 0.1, train: {a: 1}}", "adapter: {rank: 4}", "data: [a]"):
        for field in (one for section in forms.sections() for one in forms.fields(section, strange)):
            component(board, field)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_command_has_a_form(tmp_path: Path, language: str) -> None:
    board = Board(tmp_path, typer.main.get_command(commands), Speaker(language))
    for words in (word for tab in web.COMMANDS.values() for word in tab):
        found: list[Any] = [component(board, field) for field in fields(board.root, words)]
        assert all(one.label and (one.info or words) for one in found), words
        # an empty field for a number would say 0
        assert all(one.value is not None for one in found if isinstance(one, gr.Number)), words
