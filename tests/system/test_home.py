"""Where Luthier keeps what it fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.system.home import home


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("/data/luthier", "/data/luthier"), ("~/models", "{user}/models"), ("", "{user}/.cache/luthier")],
)
def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, expected: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_HOME", setting)
    assert str(home()) == expected.format(user=tmp_path)


def test_home_without_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LUTHIER_HOME", raising=False)
    assert home() == tmp_path / ".cache" / "luthier"
