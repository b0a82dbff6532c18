"""The same rows, whether they are looked at here or by a Ray of two cores; what fails there is said as it is here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from luthier.config import SourceConfig
from luthier.data.clean import on_ray
from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.data.clean.duplicates import Duplicates
from luthier.data.clean.ledger import Tally
from luthier.data.clean.near import NearDuplicates
from luthier.data.clean.quality import Quality
from luthier.data.clean.redact import Personal, Secrets
from luthier.data.clean.repair import Repair
from luthier.data.clean.run import clean_source
from luthier.errors import LuthierError, MissingExtra, UserError

FILES = ("rows.jsonl", "dropped.jsonl", "ledger.jsonl")


class Seven(CleanerSettings):
    """A heavy cleaner that wants rows gone whose answer has a 777, and is the slower the earlier a row is."""

    type: Literal["seven"] = "seven"
    heavy: ClassVar[bool] = True
    fails: Literal["", "ours", "other"] = ""

    def build(self) -> Cleaner:
        return LookingForSeven(self)


class LookingForSeven(Cleaner):
    def __init__(self, settings: Seven) -> None:
        self.settings, self.processes = settings, set[int]()

    def look(self, rows: Sequence[Said]) -> list[Any]:
        if self.settings.fails == "ours":
            raise MissingExtra("seven", "a library", "clean")
        if self.settings.fails == "other":
            raise ZeroDivisionError("by nothing")
        if rows and rows[0].where.endswith(":1"):
            time.sleep(2)
        return [(os.getpid(), row.answer.count("777")) for row in rows]

    def judge(self, row: Said, finding: Any) -> Drop | None:
        process, count = finding
        self.processes.add(process)
        return Drop("seven", float(count), 1.0, f"{count} times") if count else None

    def notes(self) -> list[str]:
        return sorted(map(str, self.processes))


CLEANERS = [Repair(), Secrets(), Personal(), Quality(), Duplicates(), NearDuplicates(), Seven()]


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    """Clean rows, among them rows to mend, rows that repeat others, rows to drop, and rows that are none."""
    rows: list[Any] = [
        {"prompt": f"What is row {n}?", "completion": f"It is number {n}, and {n * 7919} besides, café."}
        for n in range(600)
    ]
    for n in range(20, 600, 20):
        question, answer = rows[n].values()
        rows[n] = [
            {"prompt": question, "completion": answer.encode().decode("latin-1")},
            {"prompt": question, "completion": f"{answer} Mail a{n}@b.example, key AKIAIOSFODNN7EXAMPL{n % 10}."},
            rows[n - 7],
            {"prompt": rows[n - 9]["prompt"], "completion": rows[n - 9]["completion"] + " So it is."},
            {"prompt": question, "completion": "As an AI, I cannot say."},
            {"prompt": question},
            {"prompt": question, "completion": f"{answer} \U0001f600", "notes": [[1, 2], [3, None], {"a": 1.5}]},
        ][n // 20 % 7]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in rows))
    return SourceConfig(path=str(path))


def written(source: SourceConfig, folder: Path, **how: Any) -> tuple[Tally, list[bytes]]:
    tally = clean_source(source, CLEANERS, str(folder), **how)
    return tally, [(folder / name).read_bytes() for name in FILES]


@pytest.mark.slow
def test_rows_are_the_same_byte_for_byte(source: SourceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setattr(on_ray, "WINDOW", 2)  # so that there are several
    sessions: list[Path] = []
    started = ray.init

    def spied(*options: Any, **more: Any) -> None:
        started(*options, **more)
        context = ray.get_runtime_context()
        sessions.append(Path(context.get_temp_dir(), context.get_session_name()))
        assert sessions[0].is_dir() and ray.cluster_resources()["CPU"] == 2

    monkeypatch.setattr(ray, "init", spied)
    here, expected = written(source, tmp_path / "here")
    try:
        there, found = written(source, tmp_path / "there", on="ray", workers=2)
    except UserError as error:  # its servers must answer within a minute
        pytest.skip(str(error))
    assert found == expected
    assert {"duplicate", "near-duplicate", "refusal", "wrong-layout", "seven"} <= here.dropped.keys()
    assert {"repair", "personal", "secrets"} <= here.mended.keys()
    assert here.notes == [str(os.getpid())] and str(os.getpid()) not in there.notes, "the heavy stage was there too"
    assert not ray.is_initialized() and not sessions[0].exists()


@pytest.mark.slow
def test_what_fails_there_is_said_here(
    source: SourceConfig, monkeypatch: pytest.MonkeyPatch, cleaned: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """In words alone; and a Ray that was there stays."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with ExitStack() as held:
        try:
            held.enter_context(on_ray.ray_workers(2))
        except UserError as error:
            pytest.skip(str(error))
        with pytest.raises(MissingExtra, match=r"^seven needs a library, .* pip install 'luthier\[clean\]'$"):
            cleaned([Seven(fails="ours")], ("a", "b"), on="ray")
        with pytest.raises(LuthierError, match=r"(?s)--on ray: .*by nothing.*each node needs what this one has"):
            cleaned([Seven(fails="other")], ("a", "b"), on="ray")
        assert ray.is_initialized()
    assert capfd.readouterr() == ("", "")


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch, cleaned: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"^--on ray needs ray, .*: pip install 'luthier\[ray\]'$"):
        cleaned([], ("a", "b"), on="ray")


@pytest.mark.parametrize("address", ["nobody.invalid", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_nobody_is_at_the_address(address: str, monkeypatch: pytest.MonkeyPatch, cleaned: Any) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS={address}: .*; name a cluster that runs, or none to use this"):
        cleaned([], ("a", "b"), on="ray")
