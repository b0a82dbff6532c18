"""What a run says it was made from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.models.inputs import inputs_of, licence_of, sums


def test_files_code_and_weights(run_config: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    code = tmp_path / "reward.py"
    code.write_text("def reward(prompt, answer):\n    return 1.0\n")
    objective = {"type": "grpo", "rewards": [{"type": "python", "path": str(code)}]}
    config = run_config(objective=objective, data__train=[{"path": str(tmp_path / "train.jsonl"), "licence": "MIT"}])
    told = json.loads(inputs_of(config))
    data, weights = tmp_path / "train.jsonl", tiny / "model.safetensors"
    assert set(told["data"]) == {str(data), str(code)} and set(told["model"]) == {str(weights)}
    content = data.read_bytes()
    assert told["data"][str(data)] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert told["licences"] == {str(data): "MIT"} and told["licence"] is None
    assert told["directory"] == str(Path.cwd()) and told["processes"] == 1 and told["command"]


def test_what_is_no_file_or_too_large_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows").write_text("four")
    monkeypatch.setattr("luthier.models.inputs.HASHED_BYTES", 3)
    assert sums(["-", "hub:a/b", str(tmp_path / "rows")]) == {
        "-": {"bytes": None, "sha256": None},
        "hub:a/b": {"bytes": None, "sha256": None},
        str(tmp_path / "rows"): {"bytes": 4, "sha256": None},
    }


def test_a_model_that_only_another_loader_knows(run_config: Callable[..., Any]) -> None:
    assert json.loads(inputs_of(run_config(model="my://own")))["model"] == {}


def test_the_state_of_git(run_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert json.loads(inputs_of(config))["git"] is None
    named = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("init", "-q"), ("add", "config.json"), (*named, "commit", "-qm", "first")):
        subprocess.run(["git", *words], check=True)
    (tmp_path / "config.json").write_text("{} ")
    said = json.loads(inputs_of(config))["git"]
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert said["commit"] == commit and said["changed"] == ["config.json", "train.jsonl"]


def test_licences(tmp_path: Path) -> None:
    assert licence_of("smollm2-135m-instruct") == "Apache-2.0" and licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Mine\n")
    assert licence_of(str(tmp_path)) == "mit"
    for damaged in ("no head", "---\n- license\n---\n", "---\n{\n---\n", "---\nlicense: [a]\n---\n"):
        (tmp_path / "README.md").write_text(damaged)
        assert licence_of(str(tmp_path)) is None
    (tmp_path / "inputs.json").write_text('{"licence": "Apache-2.0"}')
    assert licence_of(str(tmp_path)) == "Apache-2.0", "of the run that tuned it, which knows of what"
