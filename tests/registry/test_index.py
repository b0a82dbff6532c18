"""Versions and aliases: registered whole or not at all, by several at once, and kept once on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ModelError, OutputError, StorageError
from luthier.registry.index import Registry, Version
from luthier.registry.origin import Origin, say_origin

Add = Callable[..., Version]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export leaves."""
    place = tmp_path / "export"
    (place / "deep").mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"weights" * 1000)
    (place / "deep" / "tokenizer.json").write_text("{}")
    say_origin(place, "merged", ["base"])
    return place


@pytest.fixture
def add(registry: Registry, folder: Path) -> Add:
    def register(name: str = "medical", **more: Any) -> Version:
        return registry.register(str(folder), name, **more)

    return register


def test_numbers_count_up_and_are_never_given_again(registry: Registry, add: Add) -> None:
    assert [add().number for _ in range(3)] == [1, 2, 3]
    assert add("other").uri == "models:/other/1"
    registry.delete("medical/3")
    assert add().number == 4 and [one.number for one in registry.versions("medical")] == [4, 2, 1]
    assert registry.models() == [("medical", 3, 4), ("other", 1, 1)]
    with pytest.raises(ModelError, match=r"models:/medical/3: no such version; the newest is 4"):
        registry.version("models:/medical/3")


def test_what_is_kept_of_a_version(registry: Registry, add: Add, folder: Path) -> None:
    version = add(tags={"who": "me"})
    assert (version.made, version.parents, version.tags) == ("merged", ["base"], {"who": "me"})
    assert registry.version("medical/1") == version
    assert (registry.folder(version) / "deep" / "tokenizer.json").read_text() == "{}"
    assert set(version.files) == {"model.safetensors", "deep/tokenizer.json", "made.json"}
    (folder / "model.safetensors").write_bytes(b"others")
    assert registry.damaged(version) == [], "what was registered does not change with its source"
    assert add().weights != version.weights
    kept = registry.folder(version) / "model.safetensors"
    kept.chmod(0o644)
    kept.write_bytes(b"changed")
    assert registry.damaged(version) == ["model.safetensors"]


def test_equal_files_are_on_the_disk_once_until_nothing_holds_them(registry: Registry, add: Add, folder: Path) -> None:
    one, two = add(), add()
    files = [registry.folder(version) / "model.safetensors" for version in (one, two)]
    assert files[0].stat().st_ino == files[1].stat().st_ino and files[0].stat().st_nlink == 3
    assert registry.gc() == (0, 0)
    registry.delete("medical/1")
    assert registry.gc() == (0, 0), "the other still holds them"
    registry.delete("medical/2")
    assert registry.gc()[0] == 3 and not list((registry.root / "files").iterdir())
    assert add().number == 3 and registry.damaged(registry.version("medical/3")) == []


def test_what_only_the_run_needs_is_left_out(registry: Registry, add: Add, folder: Path) -> None:
    for name in ("checkpoint-4", "wandb", "tensorboard"):
        (folder / name).mkdir()
        (folder / name / "latest").symlink_to(folder)
    (folder / ".lock").touch()
    assert set(add().files) == {"model.safetensors", "deep/tokenizer.json", "made.json"}


def test_a_damaged_kept_file_is_not_given_to_others(registry: Registry, add: Add) -> None:
    first = add()
    kept = registry.root / "files" / first.files["model.safetensors"]
    kept.chmod(0o644)
    kept.write_bytes(b"changed")
    assert registry.damaged(first) == ["model.safetensors"] and registry.damaged(add()) == []


def test_aliases_go_forth_and_back(registry: Registry, add: Add) -> None:
    for _ in range(3):
        add()
    for number in (1, 2, 2, 3):
        registry.promote(f"medical/{number}", "champion")
    assert registry.version("models:/medical@champion").number == 3
    assert registry.rollback("medical@champion").number == 2
    assert registry.rollback("medical@champion").number == 1
    with pytest.raises(ModelError, match="stands for models:/medical/1, and for nothing before"):
        registry.rollback("medical@champion")
    with pytest.raises(ModelError, match="for nothing before; an alias is models:/NAME@ALIAS"):
        registry.rollback("medical/2")
    assert registry.aliases() == [("medical", "champion", 1)]
    with pytest.raises(ModelError, match=r"@staging: no such version; the newest is 3, @champion is 1"):
        registry.version("medical@staging")
    with pytest.raises(ModelError, match="no such model is registered; did you mean 'medical'"):
        registry.version("medcal/1")


def test_what_others_need_is_not_deleted(registry: Registry, add: Add) -> None:
    add()
    add(origin=Origin("exported", ["models:/medical/1"]))
    registry.promote("medical/1", "champion")
    with pytest.raises(ModelError, match="@champion stands for it; models:/medical/2 was made of it"):
        registry.delete("medical/1")
    assert registry.damaged(registry.version("medical/1")) == []
    registry.delete("medical/2")
    registry.promote("medical/1", "champion")
    add()
    registry.promote("medical/3", "champion")
    assert registry.delete("medical/1").number == 1
    with pytest.raises(ModelError, match="for nothing before"):
        registry.rollback("medical@champion")


@pytest.mark.parametrize("place", ["adapter.safetensors", "deep", "deep/more", ".."])
def test_links_are_refused(registry: Registry, add: Add, folder: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").mkdir()
    if place == "..":
        (tmp_path / "linked").symlink_to(folder)
        with pytest.raises(OutputError, match="not a folder"):
            registry.register(str(tmp_path / "linked"), "medical")
    else:
        target = folder / place
        if target.is_dir():
            (target / "tokenizer.json").unlink()
            target.rmdir()
        target.symlink_to(tmp_path / "secret")
        with pytest.raises(OutputError, match=f"{place}: a link or no plain file, so it cannot be registered"):
            add()
    assert registry.versions() == [] and not list(registry.root.glob(".incomplete-*"))


def test_what_cannot_be_registered(registry: Registry, tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(OutputError, match=r"no run of Luthier, and no made.json says what it was made of"):
        registry.register(str(empty), "medical")
    with pytest.raises(OutputError, match="holds no files"):
        registry.register(str(empty), "medical", origin=Origin("merged", ["x"]))
    with pytest.raises(ModelError, match=r"'gone': neither a folder nor the id of a run; see luthier runs list"):
        registry.register("gone", "medical")
    with pytest.raises(ModelError, match="is no name of a model"):
        registry.register(str(folder), "../x")
    (registry.root / "index.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 99)
    with pytest.raises(StorageError, match=r"index.sqlite: file is not a database; nothing was changed"):
        registry.versions()


REGISTER = """
import sys
from pathlib import Path
from luthier.registry import index, store
registry, copy = index.Registry(Path(sys.argv[1])), store._keep
if sys.argv[4:]:
    target, name = {"copied": (store, "_keep"), "placed": (index, "sync_folder")}[sys.argv[4]]
    plain = getattr(target, name)
    def waits(*arguments):
        found = plain(*arguments)
        print("there", flush=True)
        sys.stdin.read()
        return found
    setattr(target, name, waits)
for _ in range(int(sys.argv[3])):
    print(registry.register(sys.argv[2], "medical").number)
"""


def process(registry: Registry, folder: Path, count: int, *stop: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", REGISTER, str(registry.root), str(folder), str(count), *stop]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_at_once_on_no_index(registry: Registry, folder: Path) -> None:
    """Fifty versions by four; `python -m benchmarks.registry` does it with whole trainings."""
    running = [process(registry, folder, count) for count in (13, 13, 12, 12)]
    numbers = [int(line) for one in running for line in one.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 51)) and all(one.returncode == 0 for one in running)
    found = registry.versions("medical")
    assert sorted(one.number for one in found) == list(range(1, 51))
    assert all(registry.damaged(one) == [] for one in found) and registry.gc() == (0, 0)
    assert len(list((registry.root / "files").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["copied", "placed"])
def test_killed_while_it_registers(registry: Registry, folder: Path, add: Add, moment: str) -> None:
    add()
    killed = process(registry, folder, 1, moment)
    assert killed.stdout is not None and killed.stdout.readline() == "there\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [one.number for one in registry.versions()] == [1]
    left = [*registry.root.glob(".incomplete-*"), registry.root / "versions" / "medical" / "2"]
    assert any(path.exists() for path in left), "the kill came in time to leave something"
    registry.gc()
    assert not any(path.exists() for path in left)
    assert add().number == 2 and registry.damaged(registry.version("medical/2")) == []


def test_what_a_killed_one_left_in_its_place_is_replaced(registry: Registry, add: Add) -> None:
    add()
    left = registry.root / "versions" / "medical" / "2"
    left.mkdir()
    (left / "half").touch()
    assert registry.damaged(add()) == [] and not (left / "half").exists()


def test_ten_thousand_versions(registry: Registry, add: Add) -> None:
    version = add()
    with registry._open() as index:
        line = index.execute("SELECT * FROM version").fetchone()
        told = (line[4].replace('"number": 1,', f'"number": {number},') for number in range(2, 10_001))
        rows = ((line[0], number, *line[2:4], text) for number, text in enumerate(told, 2))
        index.executemany("INSERT INTO version VALUES (?, ?, ?, ?, ?)", rows)
    started = time.monotonic()
    newest = registry.versions("medical", limit=20)
    assert registry.models() == [("medical", 10_000, 10_000)] and registry.version("medical/5000").number == 5000
    assert time.monotonic() - started < 1.0
    assert [one.number for one in newest] == list(range(10_000, 9_980, -1)) and newest[0].files == version.files
