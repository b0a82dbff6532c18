"""Files and folders appear whole or not at all, and a disk that refuses is one sentence."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import LuthierError, StorageError
from luthier.system import files
from luthier.system.files import PREFIX, atomic_folder, refused_writes_of, sha256_of, write_text


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_write_text(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    write_text(target, "one\n")
    write_text(target, "zwei ü 二\n")
    assert target.read_bytes() == "zwei ü 二\n".encode()
    assert listing(tmp_path) == ["new", "new/folder", "new/folder/file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    """A real one: the temporary file is a link to a device without space."""
    (tmp_path / "file").write_text("old")
    (tmp_path / f"{PREFIX}file").symlink_to("/dev/full")
    with pytest.raises(StorageError) as caught:
        write_text(tmp_path / "file", "new")
    message = str(caught.value)
    assert message.startswith(f"could not write {tmp_path / 'file'}: the disk is full; ")
    assert f"MB free at {tmp_path}." in message and "run the same command again" in message
    assert (tmp_path / "file").read_text() == "old" and listing(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_while_a_folder_is_written(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(StorageError, match="the disk is full"), atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("new")
        (folder / "b").symlink_to("/dev/full")
        (folder / "b").write_text("new")
    assert (tmp_path / "folder" / "a").read_text() == "old" and listing(tmp_path) == ["folder", "folder/a"]


REFUSED = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    "full, says safetensors": (RuntimeError("Error: I/O error: os error 28"), "the disk is full"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), r"not writable \(.*Read-only"),
    "not allowed": (PermissionError(errno.EACCES, "Permission denied"), r"not writable \(.*Permission denied"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("step", ["open", "replace"])
def test_refused_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str, step: str) -> None:
    error, message = REFUSED[case]
    write_text(tmp_path / "file", "old")

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, refuse)
        with pytest.raises(StorageError, match=message):
            write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and listing(tmp_path) == ["file"]


def test_the_message_names_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"MB free at {tmp_path}\\."), refused_writes_of(tmp_path / "a" / "b" / "c"):
        raise OSError(errno.ENOSPC, "")


@pytest.mark.parametrize("error", [ValueError("a fault of ours"), FileNotFoundError("gone"), StorageError("said")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refused_writes_of(Path("file")):
        raise error
    assert caught.value is error
    assert isinstance(error, StorageError) == isinstance(error, LuthierError)


def test_atomic_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with atomic_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("one")
        assert not target.exists()
    with atomic_folder(target) as folder:
        (folder / "file").write_text("two")
        assert (target / "inner" / "file").read_text() == "one", "the old one stands until the new one is whole"
    assert listing(target) == ["file"] and listing(tmp_path) == ["deep", "deep/folder", "deep/folder/file"]


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [True, False])
def test_an_exception_half_way(tmp_path: Path, error: BaseException, before: bool) -> None:
    target = tmp_path / "folder"
    if before:
        target.mkdir()
        (target / "file").write_text("old")
    with pytest.raises(type(error)), atomic_folder(target) as folder:
        (folder / "file").write_text("new")
        raise error
    assert listing(tmp_path) == (["folder", "folder/file"] if before else [])
    assert not before or (target / "file").read_text() == "old"


def test_a_rename_that_fails_puts_the_old_folder_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target, rename = tmp_path / "folder", Path.rename
    with atomic_folder(target) as folder:
        (folder / "file").write_text("old")

    def once(self: Path, new: Path) -> Path:
        if self.name == f"{PREFIX}folder":
            raise OSError(errno.EIO, "the disk is broken")
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(OSError, match="broken"), atomic_folder(target) as folder:
        (folder / "file").write_text("new")
    assert (target / "file").read_text() == "old" and listing(tmp_path) == ["folder", "folder/file"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}folder"
    left.mkdir()
    (left / "half").write_text("a file")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert listing(tmp_path) == ["folder", "folder/file"]


def test_everything_is_on_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "_sync", lambda path: synced.append(path.name))
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append("text"))
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").touch()
        (folder / "inner").mkdir()
        (folder / "inner" / "b").touch()
    assert sorted(synced[:2]) == ["a", "b"] and synced[-1] == tmp_path.name
    write_text(tmp_path / "file", "")
    assert synced[-2:] == ["text", tmp_path.name]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
