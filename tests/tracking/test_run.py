"""Which output folders a run may use, and what it writes in them."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import OutputError, StorageError
from luthier.tracking.run import RUN, RunFolder, differences, fingerprint

CONFIG: dict[str, Any] = {
    "model": {"path": "tiny"},
    "adapter": {"type": "lora", "rank": 8},
    "train": {"learning_rate": 1e-3, "save_every": "1 epoch", "evaluate_every": None},
    "evaluate": {"metrics": []},
    "parallel": {"type": "auto"},
    "output": {"dir": "run", "keep": 2},
}


def changed(**keys: Any) -> dict[str, Any]:
    """The config with other values, `section__key=value`."""
    tree: dict[str, Any] = json.loads(json.dumps(CONFIG))
    for key, value in keys.items():
        section, _, name = key.partition("__")
        tree[section][name] = value
    return tree


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder with an unfinished run."""
    run = RunFolder(tmp_path / "run")
    run.require_free_or_same(CONFIG, "data", restart=False)
    run.start(CONFIG, "data", {"config.yaml": "written\n"}, restart=False)
    return run


def said(folder: RunFolder) -> dict[str, Any]:
    """What run.json holds besides an id and times, which are there."""
    record = folder.record() or {}
    assert len(record.pop("id")) == 16 and record.pop("started").endswith("+00:00")
    record.pop("ended", None)
    return record


def test_a_fresh_folder(folder: RunFolder) -> None:
    assert said(folder) == {"finished": False, "data": "data", "config": CONFIG}
    assert (folder.path / "config.yaml").read_text() == "written\n"


def test_the_same_run_may_go_on(folder: RunFolder) -> None:
    folder.require_free_or_same(CONFIG, "data", restart=False)


@pytest.mark.parametrize("place", ["mine", "mine/deeper/run"])
def test_a_file_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match=rf"^output\.dir: {tmp_path}/mine is a file"):
        RunFolder(tmp_path / place).require_free_or_same(CONFIG, "data", restart=True)


FOREIGN = {
    "other files": ("notes.txt", "mine"),
    "a run.json of something else": (RUN, '{"name": "other", "config": {}}'),
    "a list": (RUN, "[1]"),
    "a damaged run.json": (RUN, '{"finished": fal'),
}


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, kind: str, restart: bool) -> None:
    name, content = FOREIGN[kind]
    (tmp_path / name).write_text(content)
    (tmp_path / "precious").touch()
    folder = RunFolder(tmp_path)
    with pytest.raises(OutputError, match="not empty and holds no run of Luthier; choose another folder"):
        folder.require_free_or_same(CONFIG, "data", restart=restart)
    assert (tmp_path / name).read_text() == content
    folder.start(CONFIG, "data", {}, restart=restart)  # were it not refused: nothing else is removed
    assert (tmp_path / "precious").exists()


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    RunFolder(tmp_path).require_free_or_same(CONFIG, "data", restart=False)


def test_a_finished_run_is_refused(folder: RunFolder) -> None:
    folder.finish()
    assert said(folder) == {"finished": True, "data": "data", "config": CONFIG}
    assert (folder.record() or {})["ended"] >= (folder.record() or {})["started"]
    with pytest.raises(OutputError, match=r"holds a finished run; add --restart .*, or set another output\.dir"):
        folder.require_free_or_same(CONFIG, "data", restart=False)
    folder.require_free_or_same(CONFIG, "data", restart=True)


def test_finishing_without_its_record(folder: RunFolder) -> None:
    (folder.path / RUN).unlink()
    with pytest.raises(OutputError, match=r"run\.json is gone"):
        folder.finish()


def test_a_changed_config_lists_the_keys(folder: RunFolder) -> None:
    other = changed(train__learning_rate=2e-3, adapter__rank=16, adapter__alpha=4, output__keep=9)
    with pytest.raises(OutputError) as caught:
        folder.require_free_or_same(other, "other data", restart=False)
    lines = str(caught.value).splitlines()
    assert "unfinished run of another setting" in lines[0]
    assert lines[1:-1] == [
        "  adapter.alpha: None -> 4",
        "  adapter.rank: 8 -> 16",
        "  train.learning_rate: 0.001 -> 0.002",
        "  the data: other rows, order or rendering than before",
    ]
    assert "--restart" in lines[-1]


@pytest.mark.parametrize(
    "key",
    [
        "output__keep",
        "output__dir",
        "evaluate__metrics",
        "parallel__type",
        "train__save_every",
        "train__evaluate_every",
    ],
)
def test_free_keys_may_change(folder: RunFolder, key: str) -> None:
    folder.require_free_or_same(changed(**{key: "other"}), "data", restart=False)


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (changed(), []),
        (changed(train__new=None), []),
        (changed(train__save_every_other=1), ["train.save_every_other: None -> 1"]),
        (changed(adapter__type="full"), ["adapter.type: lora -> full"]),
        ({**CONFIG, "outputs": 1}, ["outputs: None -> 1"]),
        ({**CONFIG, "model": {}}, ["model: None -> {}", "model.path: tiny -> None"]),
    ],
)
def test_differences(after: dict[str, Any], found: list[str]) -> None:
    assert differences(CONFIG, after) == found


@pytest.mark.parametrize("link", [True, False])
def test_restart_begins_anew(folder: RunFolder, tmp_path: Path, link: bool) -> None:
    """Also where the folder is a link to another disk, and never behind links inside it."""
    (folder.path / "checkpoint-3").mkdir()
    (folder.path / "checkpoint-3" / "state.json").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (folder.path / "link").symlink_to(outside)
    if link:
        (tmp_path / "name").symlink_to(folder.path)
        folder = RunFolder(tmp_path / "name")
    other = changed(adapter__rank=2)
    folder.require_free_or_same(other, "other", restart=True)
    folder.start(other, "other", {"config.yaml": "new"}, restart=True)
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", RUN]
    assert said(folder) == {"finished": False, "data": "other", "config": other}
    assert (outside / "precious").exists()


@pytest.mark.parametrize("file", [RUN, "config.yaml", "rows.json"])
def test_a_start_that_the_disk_refuses_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    """The message says to run the same command again, so the folder must not look like somebody else's."""
    folder, replace, files = RunFolder(tmp_path / "run"), Path.replace, {"config.yaml": "a", "rows.json": "b"}

    def full(self: Path, target: Path) -> Path:
        if target.name == file:
            raise OSError(errno.ENOSPC, "")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError):
            folder.start(CONFIG, "data", files, restart=False)
    folder.require_free_or_same(CONFIG, "data", restart=False)
    assert not folder.started(files)
    folder.start(CONFIG, "data", files, restart=False)
    assert folder.started(files)


def test_fingerprint() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"]) != fingerprint(["bc", "a"])
    assert fingerprint(iter(["a", "b"])) == fingerprint(["a", "b"])
