"""From a training to the registry and back: the commands as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from luthier.drive.reproduce import require_unchanged
from luthier.registry.index import Registry
from tests.cli.conftest import Said
from tests.cli.test_commands import done
from tests.cli.test_wrong_input import refused
from tests.conftest import chat_rows

Command = Callable[..., Said]


@pytest.fixture
def trained(luthier: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """models:/medical/1 of runs/a, and models:/medical/2, which goes on from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("luthier.cli.show.console.width", 300)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))  # of other processes
    write(chat_rows(12))
    tree = {
        "model": str(tiny),
        "data": {"train": [{"path": "a.jsonl", "licence": "CC-BY-4.0"}], "held_out": 0.3},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "output": {"dir": "runs/a", "register_as": "medical"},
    }
    Path("a.json").write_text(json.dumps(tree))
    assert "registered   models:/medical/1" in done(luthier("train", "a.json"))
    done(luthier("models", "promote", "models:/medical/1"))
    again = ("model=models:/medical@champion", "output.dir=runs/b", "output.register_as=null", "train.seed=1")
    done(luthier("train", "a.json", *again))
    assert "models:/medical/2" in done(luthier("models", "register", "runs/b", "--name", "medical", "--tag", "who=me"))


def write(rows: list[object]) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_versions(luthier: Command, tmp_path: Path) -> None:
    assert json.loads(Path("runs/b/run.json").read_text())["config"]["model"]["path"] == "models:/medical/1"
    assert "models:/medical/2 registered, 2 versions @champion is 1" in flat(done(luthier("models", "list")))
    versions = flat(done(luthier("models", "list", "medical")))
    assert "2 continued models:/medical/1" in versions and "1 @champion adapter" in versions
    said = done(luthier("models", "show", "models:/medical/2", "--svg", "g.svg"))
    tree = [line.strip("│├└─ ") for line in said.splitlines() if "──" in line and "─────" not in line]
    assert [line.split()[0] for line in tree] == ["run", "models:/medical/1", "run", "tiny", "a.jsonl", "a.jsonl"] or (
        [Path(line.split()[0]).name for line in tree] == ["run", "1", "run", "tiny", "a.jsonl", "a.jsonl"]
    )
    assert "{'who': 'me'}" in said
    assert "made of it: models:/medical/2 continued" in flat(done(luthier("models", "show", "medical@champion")))
    texts = [node.text for node in ElementTree.parse("g.svg").iter() if node.tag.endswith("text")]
    assert {"models:/medical/1", "models:/medical/2", "a.jsonl"} <= set(texts)
    differ = done(luthier("models", "diff", "medical/1", "medical/2"))
    assert "train.seed 0 1" in flat(differ) and "rows      0 differ" in differ
    assert "weights   0 of 28 tensors have the same bits" in differ and "of its norm" in differ
    same = done(luthier("models", "diff", "medical/1", "medical/1"))
    assert "weights   28 of 28 tensors have the same bits" in same and "settings" not in same
    assert done(luthier("chat", "models:/medical@champion", "--prompt", "Hi", "--max-new-tokens", "4"))
    done(luthier("models", "merge", "models:/medical/1", "-o", "merged"))
    done(luthier("models", "register", "merged", "--name", "medical-merged"))
    assert "merged models:/medical/1" in flat(done(luthier("models", "list", "medical-merged")))
    refused(luthier("models", "delete", "medical/1"), "@champion stands for it; models:/medical/2 was made of it")
    done(luthier("models", "promote", "models:/medical/2"))
    assert "@champion is models:/medical/1" in done(luthier("models", "rollback", "models:/medical@champion"))
    assert "deleted      models:/medical/2" in done(luthier("models", "delete", "medical/2"))
    assert "removed" in done(luthier("models", "gc"))
    refused(luthier("chat", "models:/medical/2", "--prompt", "Hi"), "models:/medical/2: no such version")


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_cards_runs_and_rows(luthier: Command) -> None:
    card = done(luthier("models", "export-card", "models:/medical/1"))
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft" and head["tags"] == ["luthier", "adapter", "sft"] and "license" not in head
    measured = {one["type"]: one["value"] for one in head["model-index"][0]["results"][0]["metrics"]}
    assert measured == pytest.approx({k: v for k, v in metrics("a").items() if k in ("loss", "perplexity")})
    assert "| a.jsonl | CC-BY-4.0 |" in card and inputs("a")["data"]["a.jsonl"]["sha256"] in card
    runs = flat(done(luthier("runs", "list")))
    assert runs.index("runs/b") < runs.index("runs/a") and "sft, lora on models:/medical/1" in runs
    identity = json.loads(Path("runs/a/run.json").read_text())["id"]
    assert inputs("a")["data"]["a.jsonl"]["sha256"] in flat(done(luthier("runs", "show", identity[:6]))).replace(
        " ", ""
    )
    assert "train.seed 0 1" in flat(done(luthier("runs", "compare", identity, "runs/b")))
    done(luthier("runs", "plot", "runs/a", "models:/medical/2", "-o", "both.png"))
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")
    learnt = next(r for r in json.loads(Path("runs/a/rows.json").read_text())["rows"] if r["side"] == "train")
    said = [flat(line) for line in done(luthier("data", "where", learnt["content_id"])).splitlines()]
    for name in ("runs/a", "runs/b", "models:/medical/1", "models:/medical/2"):
        assert any(line.startswith(f"{name} a.jsonl:{learnt['line']} learnt in step") for line in said), name
    assert any(line.startswith("models:/medical/2 continued, through models:/medical/1") for line in said)
    refused(luthier("runs", "show", "nothing"), "neither a folder nor the id of a run; see luthier runs list")
    refused(luthier("models", "register", "runs/a", "--name", "../x"), "'../x' is no name of a model")
    refused(luthier("models", "promote", "medical/1", "--alias", "../x"), "'../x' is no alias")
    refused(luthier("chat", "models:/../x/1"), "is no name of a model", "a path is none")


def metrics(run: str) -> dict[str, float]:
    return dict(json.loads(Path(f"runs/{run}/metrics.json").read_text()))


def inputs(run: str) -> dict[str, dict[str, dict[str, str]]]:
    return dict(json.loads(Path(f"runs/{run}/inputs.json").read_text()))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_made_again(luthier: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    same = done(luthier("reproduce", "models:/medical@champion"))
    assert "models:/medical/1: 28 of 28 weights came out with the same hash" in same
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "home" / "registry" / "versions" / "medical" / "2" / "config.yaml"
    text = config.read_text()
    config.chmod(0o644)
    config.write_text(text.replace("seed: 1", "seed: 2"))
    refused(luthier("reproduce", "medical/2"), "models:/medical/2: config.yaml is not as it was registered")
    config.write_text(text)
    rows = chat_rows(12)
    Path("a.jsonl").write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    assert require_unchanged(Registry(), Registry().version("medical/1")).train.seed == 0, "other bytes, the same rows"
    done(luthier("models", "merge", "models:/medical/1", "-o", "merged"))
    done(luthier("models", "register", "merged", "--name", "whole"))
    refused(luthier("reproduce", "models:/whole/1"), "models:/whole/1: merged of models:/medical/1, not trained from")
    write([*rows[:4], chat_rows(40)[39], *rows[5:]])
    refused(
        luthier("reproduce", "models:/medical/1"), "a.jsonl:5 says something else", "from other rows than are there"
    )
    write(rows[:-1])
    refused(luthier("reproduce", "models:/medical/1"), "a.jsonl:12 is gone")
    Path("a.jsonl").unlink()
    refused(luthier("reproduce", "models:/medical/1"), "a.jsonl")
