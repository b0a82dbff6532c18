"""Things that run, or never end, planted in every slot of a model folder: none runs, each is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ModelError
from luthier.export.safety import require_safe

CANARY = "import pathlib; pathlib.Path('canary').write_text('ran')"
BOMBS = {
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "large": "{{ 'a' * 10**10 }}",
    "larger": "{% set ns = namespace(x='a' * 1000) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "number": "{{ 9 ** (9 ** 9) }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "import": "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
}  # fmt: skip


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CANARY,)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("luthier.export.safety.SECONDS", 2)
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def put(file: Path, key: str, value: object) -> None:
    told = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(told | {key: value}))


def test_a_plain_folder_is_fine(folder: Path) -> None:
    require_safe(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "adapter_model.bin", "scheduler.pt", "sub/tokenizer.pkl", "x.PTH", "v.npy"]
)
def test_pickles(name: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="could run code when opened; convert it to safetensors"):
        require_safe(folder)
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json", "processor_config.json"],
)
def test_code_that_is_named(name: str, folder: Path) -> None:
    put(folder / name, "auto_map", {"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text(CANARY)
    with pytest.raises(ModelError, match=r"names code of its own \(auto_map\), which is never run"):
        require_safe(folder)
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "[!!python/module:os]"]
)
def test_tags_of_yaml(text: str, folder: Path) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"config\.yaml holds a YAML tag that makes objects"):
        require_safe(folder)
    assert not Path("canary").exists()


def jinja(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def named(folder: Path, template: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(template)


SLOTS: dict[str, Callable[[Path, str], None]] = {
    "jinja": jinja,
    "named": named,
    "config": lambda folder, template: put(folder / "tokenizer_config.json", "chat_template", template),
    "list": lambda folder, template: put(
        folder / "tokenizer_config.json", "chat_template", [{"name": "default", "template": template}]
    ),
    "processor": lambda folder, template: put(folder / "chat_template.json", "chat_template", template),
}


@pytest.mark.parametrize(
    ("bomb", "slot"), [*((b, "jinja") for b in BOMBS), *(("number", s) for s in SLOTS if s != "jinja")]
)
def test_template_bombs(bomb: str, slot: str, folder: Path) -> None:
    SLOTS[slot](folder, BOMBS[bomb])
    with pytest.raises(ModelError, match=r"the chat template (takes too much time or memory|does not come to an end)"):
        require_safe(folder)
    assert not Path("canary").exists()
