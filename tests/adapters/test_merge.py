"""`luthier models merge`: a folder that needs no adapter, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters.merge import merge, merged, save_merged
from luthier.config import ModelConfig
from luthier.data.conversation import Message
from luthier.errors import ModelError, OutputError
from luthier.models.load import ModelLoader
from tests.conftest import build_model

IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.fixture
def run(run_config: Callable[..., Any]) -> Path:
    config = run_config(adapter={"type": "lora", "rank": 4, "modules_to_save": ["lm_head"]}, train__learning_rate=1e-2)
    luthier.Factory().fine_tune(config)
    return Path(config.output.dir)


def test_a_merged_folder_is_a_plain_model(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert save_merged(str(run), str(tmp_path / "merged")) == {}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tuned = ModelLoader().load(ModelConfig(path=str(run)))
    assert type(plain).__name__ == "LlamaForCausalLM" and plain.dtype is torch.float32
    assert float((logits(plain) - logits(tuned)).abs().max()) < 1e-5
    assert torch.equal(plain.get_input_embeddings().weight, plain.get_output_embeddings().weight)
    asked = [Message(role="user", content="x")]
    texts = [ModelLoader().renderer(ModelConfig(path=str(p))).prompt_text(asked) for p in (run, tmp_path / "merged")]
    assert texts[0] == texts[1]
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "<|im_end|>"
    assert not list((tmp_path / "merged").glob("adapter*"))


def test_a_checkpoint_can_be_merged(run: Path, tmp_path: Path) -> None:
    early = run / "checkpoint-3"
    expected = logits(ModelLoader().load(ModelConfig(path=str(early))))
    assert float((logits(merged(str(early))) - expected).abs().max()) < 1e-5


def test_half_precision_does_not_matter(run: Path) -> None:
    """Whatever the run kept the base in, it is merged in float32: bf16 would round most of an update away."""
    assert merged(str(run)).dtype is torch.float32
    half = ModelConfig(path=str(run), dtype="bfloat16")
    expected = logits(ModelLoader().load(half).to(torch.float32))
    found = merge(ModelLoader().load(half))
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert float((logits(found) - expected).abs().max()) < 1e-5


def test_quantised_weights_take_no_update(run: Path) -> None:
    with pytest.raises(ModelError, match="cannot be merged into quantised weights"):
        merge(ModelLoader().load(ModelConfig(path=str(run)), bits=4))


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for place in ("full", "full/mine"):
        with pytest.raises(OutputError, match="holds something already; choose a new folder"):
            save_merged(str(run), str(tmp_path / place))
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine"]


def test_what_cannot_be_merged(tiny: Path) -> None:
    model = build_model(50)
    assert merge(model) is model
    with pytest.raises(ModelError, match="holds no adapter, so there is nothing to merge"):
        merged(str(tiny))
