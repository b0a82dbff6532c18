"""A stranger's part: one file and one entry point, picked by a config like a built-in one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier import plugins
from luthier.config import parse_config
from luthier.errors import ConfigError
from luthier.plugins import BUILT_IN, Part, load, names

HALVED = '''
from typing import Literal

from luthier.objectives.base import Objective
from luthier.objectives.sft import Sft


class Halved(Sft):
    """Half of the usual loss."""

    type: Literal["halved"] = "halved"
    factor: float = 0.5
    """What the loss is multiplied with."""

    def loss(self, output, batch):
        total, extra = super().loss(output, batch)
        return self.factor * total, extra


class Half(Objective):
    """Not done yet."""

    type: Literal["half"] = "half"

    def units(self, batch):
        return 1
'''


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with an objective, one that is not done, one that cannot be imported, and one of a built-in name."""
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stranger.py").write_text(HALVED, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n", encoding="utf-8")
    entries = "halved = stranger:Halved\nbroken = stranger_missing:X\nhalf = stranger:Half\nsft = stranger:Halved\n"
    (info / "entry_points.txt").write_text(f"[luthier.objective]\n{entries}", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    plugins._table.cache_clear()
    yield
    plugins._table.cache_clear()
    sys.modules.pop("stranger", None)


def test_every_built_in_part_is_there_and_named_as_in_the_table() -> None:
    for kind, table in BUILT_IN.items():
        for name in table:
            part = load(kind, name)
            assert part.__doc__, name
            if kind not in {"file", "format"}:  # those are picked by what a file looks like, never by `type:`
                assert issubclass(part, Part) and name in part.model_json_schema()["properties"]["type"].get(
                    "enum", [part.model_json_schema()["properties"]["type"].get("const")]
                )


@pytest.mark.usefixtures("stranger")
def test_it_trains_through_the_config(run_config: Callable[..., Any], tmp_path: Path) -> None:
    import luthier

    def first_loss(name: str, objective: Any) -> float:
        losses: list[float] = []
        from luthier.train.observers.base import Observer, Progress

        class Watch(Observer):
            def on_step(self, progress: Progress) -> bool:
                losses.append(progress.loss)
                return False

        config = run_config(objective=objective, train__max_steps=1, output__dir=str(tmp_path / name))
        luthier.Factory().fine_tune(config, observers=[Watch()])
        return losses[0]

    assert first_loss("half", {"type": "halved"}) == pytest.approx(first_loss("whole", "sft") / 2, rel=1e-6)
    assert first_loss("full", {"type": "halved", "factor": 1.0}) == pytest.approx(2 * first_loss("again", "halved"))


@pytest.mark.usefixtures("stranger")
def test_it_is_listed_checked_and_explained() -> None:
    tree = {"model": "m", "data": {"train": ["x"]}, "output": "o"}
    assert "halved" in names("objective")
    with pytest.raises(ConfigError, match=r"objective\.faktor: unknown key; did you mean 'factor'\?"):
        parse_config(tree | {"objective": {"type": "halved", "faktor": 1}})
    with pytest.raises(ConfigError, match=r"the objective plug-in 'broken' \(stranger_missing:X\) cannot be loaded"):
        parse_config(tree | {"objective": "broken"})
    with pytest.raises(ConfigError, match="the objective plug-in 'half' lacks what every objective needs: loss, seq"):
        parse_config(tree | {"objective": "half"})
    from luthier.cli.config import explained

    assert "What the loss is multiplied with." in explained("objective.halved.factor")[0]


@pytest.mark.usefixtures("stranger")
def test_a_built_in_name_is_not_taken_over() -> None:
    assert load("objective", "sft").__module__ == "luthier.objectives.sft"
