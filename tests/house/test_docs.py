"""The documents speak of the code as it is: commands, files, examples, words, and one test command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from luthier.cli.main import app
from luthier.config import read_config, read_tree
from tests.house.source import ROOT, modules

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = ROOT / "examples" / "data"


def read(path: Path) -> str:
    """A file of the project."""
    return path.read_text(encoding="utf-8")


def commands(page: Path) -> list[list[str]]:
    """Every `luthier ...` line of a page's code blocks and of the Makefile's closing words."""
    text = read(page)
    blocks = "\n".join(re.findall(r"```(?:bash|console|sh)?\n(.*?)```", text, re.DOTALL))
    lines = [line.strip().removeprefix("$ ") for line in blocks.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("luthier ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_luthier_has(page: Path) -> None:
    tree = typer.main.get_command(app)
    for words in commands(page):
        node: Any = tree
        rest = words[1:]
        while rest and rest[0] in getattr(node, "commands", {}):
            node, rest = node.commands[rest[0]], rest[1:]
        assert not hasattr(node, "commands"), f"{page.name}: {shlex.join(words)}: no such verb"
        known = {option for parameter in node.params for option in parameter.opts}
        options = {word.split("=")[0] for word in rest if word.startswith("--")}
        free = node.context_settings.get("allow_extra_args")
        assert free or options <= known, f"{page.name}: {shlex.join(words)}: {options - known}"


def test_the_pictures_name_every_file_of_the_house() -> None:
    picture = read(ROOT / "docs" / "architecture.md")
    missing = [
        name
        for name in modules("luthier")
        if not name.endswith(("__init__.py", "__main__.py"))
        and Path(name).stem not in re.findall(r"\w+", picture)
        and "formats/" not in name
    ]
    assert missing == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", read(page)):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_short_and_trains(
    example: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_rows: Callable[..., Path]
) -> None:
    """With a tiny model in place of its own and few rows; everything else as written."""
    import luthier

    assert len(read(example).splitlines()) <= (20 if example.name == "quickstart.yaml" else 25)
    tree = read_tree(example)
    monkeypatch.chdir(ROOT)
    short = [
        {"path": source if isinstance(source, str) else source["path"], "limit": 12} for source in tree["data"]["train"]
    ]
    changes = [
        f"model={tiny}",
        "train.max_steps=2",
        f"output.dir={tmp_path / 'run'}",
        f"data.train={json.dumps(short)}",
    ]
    _, metrics = luthier.Factory().fine_tune(read_config(example, changes))
    assert metrics["steps"] == 2


def test_the_shipped_rows() -> None:
    """Enough rows; every held-out question is new, every held-out answer is one that can be learnt; twins agree."""
    files = {path.stem: [json.loads(line) for line in read(path).splitlines()] for path in ROWS.glob("*.jsonl")}
    rows = {name: [row["messages"] for row in own] for name, own in files.items() if "messages" in own[0]}
    plain = {name: [re.sub(r"\W", "", m[0]["content"].lower()) for m in own] for name, own in rows.items()}
    assert len(rows["luthier_qa"]) >= 240 and len(rows["luthier_held_out"]) == 60 and len(rows["general"]) == 20
    for train, held_out in [
        ("luthier_qa", "luthier_held_out"),
        ("luthier_qa_zh", "luthier_held_out_zh"),
        ("general_train", "general"),
    ]:
        assert len(set(plain[train])) == len(plain[train]) and not set(plain[train]) & set(plain[held_out])
    for language in ("", "_zh"):
        answers = {messages[1]["content"] for messages in rows[f"luthier_qa{language}"]}
        assert {messages[1]["content"] for messages in rows[f"luthier_held_out{language}"]} <= answers
    learnt = {messages[1]["content"] for messages in rows["luthier_qa"]}
    for pair in files["luthier_pairs"]:
        assert {pair["chosen"], pair["rejected"]} <= learnt and pair["chosen"] != pair["rejected"]
    assert all(eval(row["prompt"][8:13]) == int(row["answer"]) for row in files["sums"])
    for name in ("luthier_qa", "luthier_held_out"):
        code = [[re.findall(r"`[^`]*`", m[1]["content"]) for m in rows[twin]] for twin in (name, f"{name}_zh")]
        assert code[0] == code[1]


def test_ci_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    lines = [
        line for line in read(ROOT / ".ci" / "run").splitlines() if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert lines == ["make test"]
    assert "make test" in read(ROOT / "README.md")
    assert re.search(r"^check: test$", read(ROOT / "Makefile"), re.MULTILINE), "`make check` is the same"


def test_every_extra_that_is_named_exists() -> None:
    import tomllib

    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    named = set(
        re.findall(r"MissingExtra\([^)]*\"([\w-]+)\"\)", "".join(read(ROOT / name) for name in modules("luthier")))
    )
    assert named and named <= extras.keys()


def test_the_changelog_is_kept() -> None:
    text = read(ROOT / "CHANGELOG.md")
    assert "## [Unreleased]" in text and "keepachangelog.com" in text


def test_yaml_in_the_pages_is_a_config() -> None:
    """Each YAML block with a model, data and output is read as a config."""
    from luthier.config import parse_config

    found = 0
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", read(page), re.DOTALL):
            tree = yaml.safe_load(block)
            if {"model", "data"} <= tree.keys():
                parse_config({"output": "runs/x"} | tree, source=page.name)
                found += 1
    assert found
