"""Mistakes of the user: one message that says where and what to do, exit status 2, no traceback, nothing written."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Said
from tests.conftest import chat_rows

Command = Callable[..., Said]
GOOD = "".join(json.dumps(row) + "\n" for row in chat_rows(12))


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a good config with changes; the rows stand beside it and it is the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(GOOD, encoding="utf-8")

    def write(**changes: Any) -> Path:
        tree: dict[str, Any] = {"model": str(tiny), "data": {"train": ["rows.jsonl"]}, "output": "run"}
        tree["train"] = {"max_steps": 1, "batch_size": 4}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree | changes), encoding="utf-8")
        return tmp_path / "c.yaml"

    return write


def refused(said: Said, *words: str) -> None:
    """The user's mistake, said once."""
    assert said.status == 2, said.out + said.err
    assert said.err.count("error:") == 1 and "Traceback" not in said.err
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"lerning_rate": 1}}, ["c.yaml: train.lerning_rate: unknown key", "'learning_rate'"]),
        ({"objective": "sfft"}, ["unknown objective 'sfft'", "'sft'"]),
        ({"data": {"train": ["nowhere.jsonl"]}}, ["nowhere.jsonl: no such file (looked at /"]),
        ({"data": {"train": ["empty"]}}, ["empty: no file of rows there; allowed: .json, "]),
        ({"model": "no-such-model"}, ["no model 'no-such-model'", "smollm2-135m-instruct"]),
        ({"model": "nowhere.gguf"}, ["nowhere.gguf: no such file"]),
        (
            {"data": {"train": ["rows.jsonl"], "max_length": 8}},
            ["over-length", "rows.jsonl:1", "data.over_length=drop"],
        ),
        (
            {"model": {"path": "TINY", "chat_template": "none.jinja"}},
            ["model.chat_template", "none.jinja: no such file"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_config(
    luthier: Command, config: Callable[..., Path], tiny: Path, verb: str, change: dict[str, Any], words: list[str]
) -> None:
    if isinstance(change.get("model"), dict):
        change = {"model": change["model"] | {"path": str(tiny)}}
    Path("empty").mkdir()
    refused(luthier(verb, config(**change)), *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parallel": "ddp"}, ["luthier train CONFIG --devices 2"]),
        ({"output": {"dir": "run", "trackers": ["tensorboar"]}}, ["unknown tracker 'tensorboar'", "'tensorboard'"]),
        ({"output": "rows.jsonl"}, ["rows.jsonl is a file"]),
        ({"output": "."}, ["is not empty and holds no run"]),
        ({"output": "/proc/none/run"}, ["output.dir: /proc/none/run cannot be made"]),
    ],
    ids=["ddp alone", "a tracker", "a file", "a foreign folder", "no folder can be made"],
)
def test_what_only_training_needs(
    luthier: Command, config: Callable[..., Path], change: dict[str, Any], words: list[str]
) -> None:
    before = {path: path.read_bytes() for path in [config(**change), Path("rows.jsonl")]}
    refused(luthier("train", "c.yaml"), *words)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-20].encode(), ["rows.jsonl:12: not valid JSON", "is the file cut off?"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)), ["rows.jsonl:1: not UTF-8"]),
        (gzip.compress(GOOD.encode())[:-9], ["rows.jsonl: cannot be unpacked", "is it cut off?"]),
        (b"", ["the file is empty"]),
        (b" \n\t\n", ["the file is empty"]),
        (b"[]", ["the file holds no rows"]),
        (b'{"messages": []}\n', ["no format reads these rows (rows with the keys messages)"]),
        (b'{"a": 1}\n', ["no format reads these rows (rows with the keys a)", "messages: a list of"]),
        (b'{"messages": [{"role": "user", "content": "x", "content": "y"}]}', ["rows.jsonl:1", "given twice"]),
        (b'{"text": NaN}', ["rows.jsonl:1", "NaN is not JSON"]),
        ("caf\xe9".encode("latin-1"), ["rows.jsonl:1: not UTF-8"]),
    ],
    ids=["truncated", "png", "gzip", "empty", "blank", "no-rows", "no-messages", "unknown", "twice", "nan", "latin"],
)
def test_a_wrong_data_file(luthier: Command, config: Callable[..., Path], content: bytes, words: list[str]) -> None:
    file = config()
    Path("rows.jsonl").write_bytes(content)
    refused(luthier("train", file), *words)
    refused(luthier("data", "show", "rows.jsonl", "--model", "irrelevant"), *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("empty", ["no config.json and no adapter_config.json"]),
        ("no-weights", ["no weights to load", "expected *.safetensors, found none"]),
        ("pickle", ["only pytorch_model.bin, which could run code"]),
        ("cut", ["cannot be loaded"]),
        ("config", ["cannot be loaded"]),
        ("tokenizer", ["cannot be loaded"]),
    ],
)
def test_a_wrong_model_folder(
    luthier: Command, config: Callable[..., Path], tiny: Path, fault: str, words: list[str]
) -> None:
    folder = Path("model")
    file = config(model="model")
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    if fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif fault in ("no-weights", "pickle"):
        weights.unlink()
        if fault == "pickle":
            (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    elif fault == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif fault == "config":
        (folder / "config.json").write_text("{", encoding="utf-8")
    else:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    for verb in (
        ["train", file],
        ["chat", "model", "--prompt", "hello"],
        ["evaluate", "model", "--data", "rows.jsonl"],
    ):
        refused(luthier(*verb), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "show", "rows.jsonl", "--row", "99"], ["--row 99, but the file has 12 rows"]),
        (["data", "show", "rows.jsonl", "--format", "csv"], ["unknown format 'csv'"]),
        (["evaluate", "TINY", "--data", "rows.jsonl", "--metrics", "bleurt"], ["unknown metric 'bleurt'"]),
        (["compare", "TINY", "gone", "--data", "rows.jsonl"], ["no model 'gone'"]),
        (["compare", "TINY", "gone"], ["gone is no run", "--data FILE"]),
        (["plugins", "adaptor"], ["no kind of plug-in 'adaptor'", "'adapter'"]),
        (["config", "explain", "train.lr"], ["no such key"]),
        (["models", "fetch", "smollm2"], ["no model 'smollm2'", "smollm2-135m-instruct"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_wrong_arguments(
    luthier: Command, config: Callable[..., Path], tiny: Path, arguments: list[str], words: list[str]
) -> None:
    config()
    refused(luthier(*(str(tiny) if word == "TINY" else word for word in arguments)), *words)


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["train"], ["train", "c.yaml", "--devices", "0"], ["compare", "a"]]
)
def test_wrong_usage(luthier: Command, arguments: list[str]) -> None:
    said = luthier(*arguments)
    assert said.status == 2 and "Usage" in said.err and "Traceback" not in said.err


def test_a_place_that_is_none(luthier: Command) -> None:
    said = luthier("data", "clean", "rows.jsonl", "--dry-run", "--on", "mars")
    assert said.status == 2 and "'mars' is not one of 'here', 'ray'" in said.err
