"""What would be uploaded is said; it is uploaded when that is asked for, and nothing that might harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from luthier.errors import LuthierError, ModelError, UserError
from luthier.export.hub import upload


class Hub:
    """Stands in for the hub; keeps what was asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, name: str, **how: Any) -> str:
        self.asked.append((name, how))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, **how: Any) -> None:
        self.asked.append(("folder", how))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.asked = []
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "model.safetensors").write_bytes(bytes(2048))
    (tmp_path / "out" / "deep" / "README.md").write_text("x", encoding="utf-8")
    return tmp_path / "out"


def test_it_is_said_before_it_is_done(hub: type[Hub], folder: Path) -> None:
    said = upload(folder, "me/model")
    assert "would upload to me/model (private" in said and "2 files, 2" in said and "deep/README.md" in said
    assert hub.asked == []


def test_it_is_private(hub: type[Hub], folder: Path) -> None:
    assert upload(folder, "me/model", dry_run=False).startswith("uploaded to https://huggingface.co/me/model")
    (name, how), (_, sent) = hub.asked
    assert name == "me/model" and how["private"] is True and sent["folder_path"] == folder


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "me/..", "me/a b"])
def test_names_that_are_none(hub: type[Hub], folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="--upload"):
        upload(folder, name, dry_run=False)
    assert hub.asked == []


def test_what_might_harm_stays_here(hub: type[Hub], folder: Path) -> None:
    (folder / "x.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"x\.pkl"):
        upload(folder, "me/model", dry_run=False)
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(LuthierError, match=r"me/model: the model hub did not take it: no route to host$"):
        upload(folder, "me/model", dry_run=False)
