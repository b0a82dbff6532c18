"""Where a tuned model finds its base: by revision, by name when folders move, and said at once when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.adapters.lora import Lora
from luthier.config import ModelConfig
from luthier.errors import ModelError
from luthier.models.find import find
from luthier.models.load import ModelLoader
from tests.conftest import build_model, chat_rows
from tests.models.conftest import load, rewrite


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`runs/mine` in another folder looks like a hub id."""
    asked: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> Any:
        asked.append(address)
        raise OSError

    monkeypatch.chdir(tmp_path)
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(ModelError, match=r"^no model 'runs/mine': no such folder \(looked at /.*/runs/mine\), and"):
        find("runs/mine")
    assert asked == [("huggingface.co", 443)]


HUB = """
import sys, pathlib, luthier
from luthier.config import ModelConfig, parse_config
from luthier.models.find import find
from luthier.models.load import ModelLoader
config = {"model": {"path": "owner/tiny", "revision": sys.argv[1]}, "data": {"train": [sys.argv[2]], "held_out": 0.0},
          "train": {"max_steps": 2, "learning_rate": 1e-3}, "output": sys.argv[3]}
luthier.Factory().fine_tune(parse_config(config))
tuned = ModelLoader().load(ModelConfig(path=sys.argv[3]))
print(find(sys.argv[3]).revision, float(tuned.get_input_embeddings().weight.sum()))
"""


def test_a_hub_model_and_its_revision(tiny: Path, tmp_path: Path, write_rows: Any) -> None:
    """From the hub's cache, without network: a run stands on the very revision it was tuned from, not on main."""
    cache, sums = tmp_path / "hub" / "models--owner--tiny", {}
    for number, name in enumerate(("main", "old")):
        commit = f"{number}" * 40
        shutil.copytree(tiny, cache / "snapshots" / commit)
        build_model(load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].shape[0], seed=number) \
            .save_pretrained(cache / "snapshots" / commit)  # fmt: skip
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / name).write_text(commit)
        weights = load_file(cache / "snapshots" / commit / "model.safetensors")
        sums[name] = (commit, float(weights["model.embed_tokens.weight"].sum()))
    rows = write_rows(chat_rows(8))
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for name, (commit, total) in sums.items():
        command = [sys.executable, "-c", HUB, name, str(rows), str(tmp_path / name)]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        revision, found = said.stdout.split()
        assert (revision, float(found)) == (commit, pytest.approx(total))


def test_a_catalogue_model_is_found_where_it_moved_to(
    adapter: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder that an adapter names is gone; the run remembers the name."""
    moved = tmp_path / "elsewhere" / "models" / "smollm2-135m-instruct"
    shutil.copytree(model, moved)
    rewrite(adapter / "adapter_config.json", base_model_name_or_path="/gone/models/smollm2-135m-instruct")
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError, match="base_model_name_or_path: no model '/gone"):
        find(str(adapter))
    record = {"finished": True, "data": "", "config": {"model": {"path": "smollm2-135m-instruct"}}}
    (adapter / "run.json").write_text(json.dumps(record))
    assert find(str(adapter)).location == str(moved)


def test_a_model_for_use_is_on_the_device_of_training(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModelLoader().load_for_use(ModelConfig(path=str(model)))
    assert (loaded.device.type, loaded.dtype) == ("cpu", torch.float32)
    monkeypatch.setattr("luthier.models.load.pick_device", lambda: torch.device("meta"))
    monkeypatch.setattr("luthier.models.load.choose_precision", lambda setting, device: "bf16")
    loaded = ModelLoader().load_for_use(ModelConfig(path=str(model)))
    assert (loaded.device.type, loaded.dtype) == ("meta", torch.bfloat16)


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"target_modules": ["q_proj"]}, {"rank": 3}])
def test_an_adapter_goes_on_with_its_own_settings_only(adapter: Path, changes: dict[str, Any]) -> None:
    own = json.loads((adapter / "adapter_config.json").read_text())
    same = {"rank": own["r"], "alpha": own["lora_alpha"], "dropout": own["lora_dropout"]}
    Lora(**same).attach(load(adapter))
    with pytest.raises(ModelError, match="the model carries a"):
        Lora(**(same | changes)).attach(load(adapter))
