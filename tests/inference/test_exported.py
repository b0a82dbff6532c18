"""Exports and endpoints are talked to like any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.generate import engine
from luthier.data.conversation import Conversation, Message
from luthier.errors import MissingExtra, ModelError, UserError
from luthier.export.base import Subject
from luthier.export.gguf import Gguf
from luthier.export.onnx import Onnx
from luthier.export.write import export
from luthier.inference.engine import Sampling
from luthier.inference.exported import RUNTIMES, ExportedEngine, engine_for
from tests.cli.conftest import Said, luthier  # noqa: F401 - a fixture
from tests.endpoint import Endpoint, serving

PROMPTS = [Conversation((Message(role="user", content=text),)) for text in ("What is 3?", "Say «é» again.", "One, two")]
SETTINGS = {"onnx": Onnx(), "gguf": Gguf(precision="F32")}


@pytest.fixture(scope="module", params=["onnx", "gguf"])
def exported(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(RUNTIMES[request.param][1])
    folder = tmp_path_factory.mktemp("exports") / request.param
    export(Subject(str(tiny)), SETTINGS[request.param], folder)
    return folder


@pytest.mark.slow
def test_an_export_says_what_the_model_says(exported: Path, tiny: Path) -> None:
    plain, found = engine_for(str(tiny)), engine(str(exported))
    assert isinstance(found, ExportedEngine)
    sampling = Sampling(max_new_tokens=12)
    expected = dict(plain.generate(PROMPTS, sampling))
    assert dict(found.generate(PROMPTS, sampling)) == expected
    assert "".join(found.stream(PROMPTS[1], sampling)) == expected[1]
    drawn = Sampling(max_new_tokens=12, temperature=1.0, seed=5)
    once = dict(found.generate(PROMPTS, drawn))
    assert once == dict(found.generate(PROMPTS, drawn)) != expected
    assert dict(found.generate(PROMPTS[1:2], drawn, seeds=[6]))[0] == once[1]
    with pytest.raises(UserError, match=r"knows max_new_tokens, seed, temperature, top_p, not top_k, min_p"):
        list(found.generate(PROMPTS, Sampling(top_k=3, min_p=0.1)))


@pytest.mark.slow
def test_the_commands_take_exports(
    exported: Path,
    luthier: Callable[..., Said],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = luthier("chat", exported, "--prompt", "What is 3?", "--max-new-tokens", 5)
    assert said.status == 0 and len(said.out) > 1, said.err
    typed = iter(["Hello", "/compare base", "And now?"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(typed, "/exit"))
    talk = luthier("chat", exported, "--max-new-tokens", 3)
    assert talk.status == 0 and talk.err.count("not answered: there is only the tuned model here") == 1, talk.err
    assert next(typed, None) is None, "the conversation goes on"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 3?"}\n{"prompt": "And 4?"}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    done = luthier("generate", tmp_path / "rows.jsonl", "--model", exported, "-o", out, "--max-new-tokens", 5)
    assert done.status == 0, done.err
    answers = [json.loads(line)["answer"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert f"{answers[0]}\n" == said.out and len(answers) == 2


def test_an_endpoint_is_an_address_with_a_model() -> None:
    with serving(Endpoint(lambda asked: f"{asked['model']}: {asked['messages'][-1]['content']}")) as served:
        found = dict(engine_for(f"{served.url}#small").generate(PROMPTS, Sampling()))
    assert found[0] == "small: What is 3?"
    with pytest.raises(ModelError, match="cannot be reached"):
        list(engine_for("http://127.0.0.1:9/v1#small").generate(PROMPTS, Sampling()))


def test_a_runtime_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")

    def missing(_: str) -> Any:
        raise ImportError

    monkeypatch.setattr("luthier.inference.exported.code", missing)
    with pytest.raises(MissingExtra, match=r"needs onnxruntime, which is not installed: pip install 'luthier\[onnx\]'"):
        engine_for(str(tmp_path))
