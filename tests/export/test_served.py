"""Folders for servers: what they hold is what their programs read."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from luthier.errors import ModelError
from luthier.export.base import Subject
from luthier.export.served import turns
from tests.conftest import build_model, build_tokenizer


def said_by_modelfile(text: str, messages: list[dict[str, str]]) -> str:
    """Ollama's template, read as Go would: the few forms that are written."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    assert template is not None
    body = template[1].replace("\n{{- ", "{{- ")  # `{{-` takes white space in front of it away
    pieces = [json.loads(piece) for piece in re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', body)]
    default, *rest, last = pieces
    roles = {"system": rest[0:2], "user": rest[2:4], "assistant": rest[4:6]}
    written = "" if messages[0]["role"] == "system" else default
    for message in messages:
        before, after = roles[message["role"]]
        written += before + message["content"] + after
    return written + last


def test_ollama(exported: Callable[..., Path], tuned: Path) -> None:
    folder = exported("ollama", precision="F32")
    text = (folder / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 512" in text
    renderer = Subject(str(tuned)).renderer
    for roles in (["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"]):
        messages = [{"role": role, "content": f"{role} says {i}\n"} for i, role in enumerate(roles)]
        expected = renderer.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert said_by_modelfile(text, messages) == expected


def test_a_template_that_is_more_than_turns(tmp_path: Path) -> None:
    """It leaves out what was said before, as templates do with thoughts."""
    template = "{{ messages[-1]['content'] }}<|im_end|>{% if add_generation_prompt %}<|im_start|>{% endif %}"
    tokenizer = build_tokenizer(template=template)
    build_model(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not made of turns alone, so Ollama cannot say it; use --to gguf"):
        turns(Subject(str(tmp_path)))


def test_vllm(exported: Callable[..., Path], base: Path) -> None:
    folder = exported("vllm")
    text = (folder / "serve.sh").read_text()
    assert f'vllm serve "{base}" --enable-lora' in text and "--lora-modules tuned=." in text
    subprocess.run(["sh", "-n", str(folder / "serve.sh")], check=True)
    compile((folder / "client.py").read_text(), "client.py", "exec")


def test_docker(exported: Callable[..., Path]) -> None:
    folder = exported("docker")
    assert list(yaml.safe_load((folder / "compose.yaml").read_text())["services"]) == ["model"]
    kinds = [part["kind"] for part in yaml.safe_load_all((folder / "kubernetes.yaml").read_text())]
    assert kinds == ["Deployment", "Service"]
    text = (folder / "Dockerfile").read_text()
    copied = re.search(r"^COPY --chown=\S+ (.*) /model/$", text, re.MULTILINE)
    assert copied is not None and all([*folder.glob(pattern)] for pattern in copied[1].split())
    assert "--keys" in text and not (folder / "keys").exists()
