"""Objectives and adapters against short references in float64, and against plain peft and transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapters.lora import Lora
from luthier.data.conversation import Origin, Row
from luthier.data.formats.base import named
from luthier.data.pack import Example, Layout, lay_out
from luthier.data.render import Renderer
from luthier.models.load import ModelLoader, _use_segment_attention
from luthier.models.output import Forward
from luthier.objectives.pretrain import Pretrain
from luthier.objectives.sft import Sft
from tests.conftest import TEXT, build_model, chat_rows


def examples(tokenizer: Any, objective: Any, rows: list[Any], layout: str) -> list[Example]:
    renderer = Renderer(tokenizer)
    contents = [named(layout).read(Row(Origin("memory", i), row)) for i, row in enumerate(rows)]
    return [Example(Origin("m", 1), "", tuple(objective.sequences(c, renderer)), c) for c in contents]


def reference(model: Any, batch: list[Example]) -> torch.Tensor:
    """Ten lines: mean over supervised tokens of -weight * log p, each row alone, by the definition."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in batch:
        for tokens in example.sequences:
            ids = torch.from_numpy(tokens.ids).long()
            logp = model(ids[None], use_cache=False).logits[0].double().log_softmax(-1)
            for t in range(1, len(ids)):
                if tokens.weights[t] > 0:
                    total = total - float(tokens.weights[t]) * logp[t - 1, ids[t]]
                    count += 1
    return total / count


@pytest.mark.parametrize(
    ("objective", "rows", "layout"),
    [(Sft(), chat_rows(6), "messages"), (Pretrain(), TEXT, "text"), (Pretrain(), chat_rows(3), "messages")],
    ids=["sft", "pretrain-text", "pretrain-chat"],
)
@pytest.mark.parametrize("packing", [True, False])
def test_objective_equals_its_definition(
    tokenizer: Any, objective: Any, rows: list[Any], layout: str, *, packing: bool
) -> None:
    if layout == "messages":
        rows[1]["messages"][1]["weight"] = 0.5
    model = build_model(len(tokenizer)).double()
    _use_segment_attention(model)
    batch_rows = examples(tokenizer, objective, rows, layout)
    expected = reference(model, batch_rows)
    expected.backward()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    batch = lay_out(batch_rows, Layout(packing=packing, tokens=10_000))
    total, _ = objective.loss(Forward(model)(model, batch), batch)
    loss = total / objective.units(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, slopes[name], rtol=1e-5, atol=1e-9), name


@pytest.mark.parametrize("bend", ["final_logit_softcapping", "none"])
def test_a_head_that_is_not_plain_is_found(bend: str) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_logit_softcapping": None}
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **heads, final_logit_softcapping=0.1 if bend != "none" else None))
    forward = Forward(model)
    assert forward.plain_head is (bend == "none")
    example = Example(Origin("m", 1), "", (_tokens(range(3, 20)),), None)  # type: ignore[arg-type]
    batch = lay_out([example], Layout(packing=False, tokens=100))
    found = forward(model.eval(), batch).logprobs(batch.targets)
    expected = model(batch.ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    assert torch.allclose(found, expected.gather(-1, batch.ids[0, 1:, None])[:, 0], atol=1e-5)


def _tokens(ids: Any) -> Any:
    import numpy as np

    from luthier.data.render import Tokens

    weights = np.ones(len(ids), dtype=np.float32)
    weights[0] = 0
    return Tokens(np.asarray(list(ids), dtype=np.int32), weights)


def test_lora_starts_as_the_base_and_merges_back(tiny: Path) -> None:
    from luthier.config import ModelConfig

    model = ModelLoader().load(ModelConfig(path=str(tiny)))
    ids = torch.arange(3, 40)[None]
    before = model(ids, use_cache=False).logits.clone()
    tuned: Any = Lora(rank=4).attach(model)
    assert torch.equal(tuned(ids, use_cache=False).logits, before)
    torch.manual_seed(0)
    for name, p in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    apart = tuned(ids, use_cache=False).logits.clone()
    assert not torch.allclose(apart, before, atol=1e-2)
    merged = tuned.merge_and_unload()
    assert torch.allclose(merged(ids, use_cache=False).logits, apart, atol=1e-5)


def test_a_run_merged_into_its_base_answers_as_before(run_config: Callable[..., Any], tmp_path: Path) -> None:
    """Full tuning of a LoRA run starts from the merged weights; a step of almost nothing shows them."""
    import luthier
    from luthier.config import ModelConfig

    lora = run_config(train__learning_rate=1e-2)
    luthier.Factory().fine_tune(lora)
    ids = torch.arange(3, 40)[None]
    before = ModelLoader().load(ModelConfig(path=lora.output.dir))(ids, use_cache=False).logits
    full = run_config(
        model=lora.output.dir, adapter="full", train__learning_rate=1e-12, train__max_steps=1, train__precision="bf16",
        output__dir=str(tmp_path / "merged"),
    )  # fmt: skip
    luthier.Factory().fine_tune(full)
    after = ModelLoader().load(ModelConfig(path=full.output.dir))(ids, use_cache=False).logits
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert torch.allclose(before, after, atol=1e-5)


def test_a_run_is_loaded_by_plain_peft(run_config: Callable[..., Any], tiny: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import luthier

    config = run_config()
    tuned = luthier.Factory().fine_tune(config).model
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), config.output.dir)
    ids = torch.arange(3, 40)[None]
    tuned.set_attn_implementation("sdpa")
    assert torch.equal(tuned(ids, use_cache=False).logits, plain(ids, use_cache=False).logits)


def test_frozen_weights_stay_as_they_were(run_config: Callable[..., Any], tiny: Path) -> None:
    from safetensors.torch import load_file

    import luthier

    tuned: Any = luthier.Factory().fine_tune(run_config()).model
    base = load_file(tiny / "model.safetensors")
    inside = {name.replace(".base_layer", ""): p for name, p in tuned.get_base_model().named_parameters()}
    for name, tensor in base.items():
        assert torch.equal(inside[name], tensor), name


def test_full_run_is_loaded_by_plain_transformers(run_config: Callable[..., Any], tiny: Path) -> None:
    from transformers import AutoModelForCausalLM

    import luthier

    config = run_config(adapter="full", train__learning_rate=1e-4)
    tuned = luthier.Factory().fine_tune(config).model
    plain = AutoModelForCausalLM.from_pretrained(config.output.dir)
    assert plain.config._attn_implementation == "sdpa"
    ids = torch.arange(3, 40)[None]
    tuned.set_attn_implementation("sdpa")
    assert torch.equal(tuned(ids, use_cache=False).logits, plain(ids, use_cache=False).logits)
