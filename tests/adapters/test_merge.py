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
from luthier.models.find import find
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


# ---- several -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(run_config: Callable[..., Any], tmp_path: Path) -> list[str]:
    """Two runs on one base that learnt other things."""
    for name, rank in (("a", 4), ("b", 2)):
        rows = [{"prompt": f"{name} {i}?", "completion": f"{name * 3} {i}."} for i in range(12)]
        adapter = {"type": "lora", "rank": rank}
        config = run_config(rows, adapter=adapter, train__learning_rate=1e-2, output=str(tmp_path / name))
        luthier.Factory().fine_tune(config)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_several_adapters_on_one_base_in_plain_peft(two: list[str], tiny: Path, tmp_path: Path) -> None:
    """Each is itself, however often they are switched; merged, both updates are there."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    alone = [logits(ModelLoader().load(ModelConfig(path=path))) for path in two]
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), two[0], adapter_name="a")
    model.load_adapter(two[1], adapter_name="b")
    for name, expected in (("a", alone[0]), ("b", alone[1]), ("a", alone[0])):
        model.set_adapter(name)
        assert float((logits(model.eval()) - expected).abs().max()) < 1e-6
    model.base_model.set_adapter(["a", "b"])
    both = logits(model)
    assert min(float((both - one).abs().max()) for one in alone) > 1e-3
    for order in (two, two[::-1]):
        assert float((logits(merged(*order)) - both).abs().max()) < 1e-5


def test_what_cannot_be_added(two: list[str], run_config: Callable[..., Any], tmp_path: Path) -> None:
    dora = run_config(adapter={"type": "lora", "use_dora": True}, output=str(tmp_path / "dora"))
    luthier.Factory().fine_tune(dora)
    for paths in ([two[0], str(tmp_path / "dora")], [str(tmp_path / "dora"), two[0]]):
        with pytest.raises(ModelError, match=r"dora: a lora \(DoRA\) adapter cannot be added to others"):
            merged(*paths)
    build_model(400, seed=3).save_pretrained(tmp_path / "other")
    settings = Path(two[1]) / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(find(two[1]).location), str(tmp_path / "other")))
    with pytest.raises(ModelError, match="they cannot be added"):
        merged(*two)
