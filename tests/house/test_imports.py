"""Import rules that a linter of layers does not see: what answers without torch, and what a storey may name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import modules

HEAVY = ("torch", "transformers", "peft")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); from luthier.cli.main import main; main()"
"""A module that is None in sys.modules cannot be imported: whoever needs it fails."""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "Fine-tune language models"),
        (["train", "--help"], 0, "--restart"),
        (["config", "explain", "adapter.lora.rank"], 0, "default: 8"),
        (["config", "schema"], 0, '"RunConfig"'),
        (["plugins"], 0, "prompt-completion"),
        (["train", "wrong.yaml"], 2, "train.lerning_rate: unknown key; did you mean 'learning_rate'?"),
        (["check", "nowhere.yaml"], 2, "nowhere.yaml: no such file"),
        (["migrate", "lf.yaml"], 2, "model_name_or_path: is required"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_these_commands_need_no_torch(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    text = "model: x\ndata: {train: [x.jsonl]}\noutput: runs/x\ntrain: {lerning_rate: 1}\n"
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "lf.yaml").write_text("stage: sft\ntemplate: qwen\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == status, result.stderr
    assert said in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_importing_luthier_costs_nothing() -> None:
    code = f"import sys, luthier; print([m for m in sys.modules if m.split('.')[0] in {(*HEAVY, 'pydantic', 'numpy')}])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def _named(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def test_interfaces_and_parts_import_heavy_libraries_late() -> None:
    """At the top of a file of the command line, a config section, or a part's module, torch would slow every error."""
    rooms = ("luthier/cli/", "luthier/config", "luthier/plugins", "luthier/units", "luthier/errors", "luthier/drive/")
    parts = ("luthier/objectives/", "luthier/adapters/", "luthier/distributed/", "luthier/tracking/", "luthier/data/f")
    opened = {f"luthier/distributed/{name}.py" for name in ("layers", "stages", "ulysses")}
    """What a part imports when it is opened."""
    early = {
        name: heavy
        for name, tree in modules("luthier").items()
        if name.startswith(rooms + parts) and name not in opened
        if (heavy := [library for node in tree.body for library in _named(node) if library in HEAVY])
    }
    assert early == {}


def test_nothing_opens_pickles_or_foreign_code() -> None:
    """No pickle, no torch.load, no trust_remote_code, no shell, no eval."""
    found = []
    for name, tree in modules("luthier").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and {"pickle", "dill", "joblib"} & set(_named(node)):
                found.append(f"{name}:{node.lineno}: pickle")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                risky = called in ("eval", "exec", "os.system", "torch.load")
                shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
                trust = any(k.arg == "trust_remote_code" and ast.unparse(k.value) != "False" for k in node.keywords)
                found += [f"{name}:{node.lineno}: {called}"] if risky or shell or trust else []
    assert found == []
