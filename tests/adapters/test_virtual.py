"""Virtual tokens: rows beside each other stay apart, losses are those of the definition, and serving says the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import luthier
from luthier.adapters.virtual import Prefix, Prompt, PTuning, Virtual
from luthier.data.conversation import Conversation, Message
from luthier.data.render import Renderer
from luthier.errors import CheckFailed, ConfigError, ModelError
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from luthier.models.load import ModelLoader, _use_segment_attention, packs
from luthier.models.output import Forward
from tests.adapters.conftest import rows, shake
from tests.conftest import build_model

KINDS: list[Virtual] = [
    Prompt(num_virtual_tokens=4),
    PTuning(num_virtual_tokens=4, encoder_hidden_size=16),
    PTuning(num_virtual_tokens=4, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"),
    Prefix(num_virtual_tokens=4),
    Prefix(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16),
]
each = pytest.mark.parametrize("part", KINDS, ids=lambda part: f"{part.type}-{len(part.model_fields_set)}")


def logprobs(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return Forward(model)(model, batch).logprobs(batch.targets)


@each
def test_a_row_is_the_same_beside_a_longer_row(model: Any, padded: Callable[..., Any], part: Virtual) -> None:
    tuned = shake(part.attach(model))
    first, second, third = rows(9, 17, 5)
    together = logprobs(tuned, padded(first, second, third)).split([8, 16, 4])
    for row, found in zip((first, second, third), together, strict=True):
        torch.testing.assert_close(found, logprobs(tuned, padded(row)), rtol=0, atol=2e-6)
    changed = logprobs(tuned, padded(first, [5] * 17, third)).split([8, 16, 4])
    torch.testing.assert_close(changed[0], together[0], rtol=0, atol=0)
    assert not torch.equal(changed[1], together[1])


def by_definition(base: Any, part: Virtual, prompt: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits `[T, V]`, by transformers' own attention and what the papers say, without peft."""
    from transformers import DynamicCache

    base.set_attn_implementation("eager")
    count, width = part.num_virtual_tokens, base.config.hidden_size
    if not isinstance(part, Prefix):
        embedded = torch.cat([prompt.view(1, count, width), base.get_input_embeddings()(ids[None])], dim=1)
        logits: torch.Tensor = base(inputs_embeds=embedded, use_cache=False).logits
        return logits[0, count:]
    layers, heads = base.config.num_hidden_layers, base.config.num_key_value_heads
    pairs = prompt.view(count, layers, 2, heads, -1).permute(1, 2, 3, 0, 4)  # layer, key or value, head, token
    cache = DynamicCache([(pair[0][None], pair[1][None]) for pair in pairs])
    places = torch.arange(count, count + len(ids))[None]
    found: torch.Tensor = base(ids[None], past_key_values=cache, position_ids=places).logits[0]
    return found


@each
def test_the_loss_is_that_of_the_definition(model: Any, padded: Callable[..., Any], part: Virtual) -> None:
    tuned = shake(part.attach(model))
    given = rows(9, 17)
    found = logprobs(tuned, padded(*given))
    prompt = tuned.get_prompt_embedding_to_save("default")
    base = tuned.get_base_model()
    expected = []
    for row in given:
        ids = torch.tensor(row)
        with torch.no_grad():
            said = by_definition(base, part, prompt, ids)[:-1].log_softmax(-1)
        expected.append(said.gather(-1, ids[1:, None])[:, 0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


@each
def test_gradients_reach_what_is_trained_and_nothing_else(
    model: Any, padded: Callable[..., Any], part: Virtual
) -> None:
    tuned = part.attach(model)
    batch = padded(*rows(9, 17))
    Forward(tuned)(tuned.train(), batch).logprobs(batch.targets).sum().backward()
    for name, parameter in tuned.named_parameters():
        assert ("prompt_encoder" in name) is parameter.requires_grad is (parameter.grad is not None), name
    assert all(p.grad.abs().sum() > 0 for n, p in tuned.named_parameters() if p.grad is not None and "bias" not in n)


def ask(text: str) -> Conversation:
    return Conversation((Message(role="user", content=text),))


@each
def test_answers_are_the_same_alone_together_and_by_hand(tokenizer: Any, part: Virtual) -> None:
    base = build_model(len(tokenizer), initializer_range=0.3, tie_word_embeddings=False).eval()
    _use_segment_attention(base)
    tuned = shake(part.attach(base), 0.5)
    engine, greedy = HfEngine(tuned, Renderer(tokenizer)), Sampling(max_new_tokens=6)
    prompts = [ask("What is the capital? " * (i % 3) + f"{i}?") for i in range(5)]
    together = dict(engine.generate(prompts, greedy))
    for i, prompt in enumerate(prompts):
        assert dict(engine.generate([prompt], greedy))[0] == together[i]
        assert "".join(engine.stream(prompt, greedy)) == together[i]
        ids = engine.renderer.prompt(prompt.messages)
        start = len(ids)
        while len(ids) < start + 6 and not (len(ids) > start and ids[-1] in engine.renderer.stop_ids):
            with torch.no_grad():
                ids.append(int(tuned(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        said = [i for i in ids[start:] if i not in engine.renderer.stop_ids]
        assert tokenizer.decode(said, skip_special_tokens=True) == together[i]
    assert len(set(together.values())) > 2


def test_rows_are_padded_without_being_asked(run_config: Callable[..., Any]) -> None:
    for adapter, packing in (("prompt", False), ("lora", True)):
        assert luthier.Factory().prepare(run_config(adapter=adapter, data__packing=True)).layout.packing is packing
    tuned = Prompt(num_virtual_tokens=3).attach(_loaded())
    assert not packs(tuned) and packs(tuned.get_base_model())


def _loaded() -> Any:
    model = build_model(100).eval()
    _use_segment_attention(model)
    return model


def test_a_prompt_that_begins_as_a_text(tiny: Any, tokenizer: Any) -> None:
    from luthier.config import ModelConfig

    base = ModelLoader().load(ModelConfig(path=str(tiny)))
    text = "Answer shortly, please."
    tuned = Prompt(num_virtual_tokens=30, prompt_tuning_init="text", prompt_tuning_init_text=text).attach(base)
    ids = (tokenizer(text)["input_ids"] * 30)[:30]
    assert torch.equal(tuned.get_prompt_embedding_to_save("default"), base.get_input_embeddings().weight[ids])
    nowhere = build_model(100)
    nowhere.name_or_path = "/nowhere"
    with pytest.raises(ModelError, match=r"adapter \(prompt\)"):
        Prompt(prompt_tuning_init="text", prompt_tuning_init_text=text).attach(nowhere)


def test_what_cannot_work_is_refused_first(run_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="prompt_tuning_init: text and prompt_tuning_init_text belong together"):
        run_config(adapter={"type": "prompt", "prompt_tuning_init": "text"})
    with pytest.raises(CheckFailed, match="the model knows 512 positions, of which the adapter takes 480"):
        luthier.Factory().fine_tune(run_config(adapter={"type": "prompt", "num_virtual_tokens": 480}))
    monkeypatch.setattr(ModelLoader, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(CheckFailed, match="prefix: layers that are computed again do not see the prefix"):
        luthier.Factory().fine_tune(run_config(adapter="prefix", train__gradient_checkpointing=True))


@each
def test_a_prompt_that_cannot_be_trained_on(part: Virtual, tmp_path: Any) -> None:
    from peft import PeftModel

    from luthier.adapters.base import Run

    base = _loaded()
    base.name_or_path = "base"
    part.save(shake(part.attach(base)), tmp_path)
    tuned: Any = PeftModel.from_pretrained(_loaded(), str(tmp_path))
    with pytest.raises(ModelError, match="with num_virtual_tokens 4; the config asks for num_virtual_tokens 5"):
        part.model_copy(update={"num_virtual_tokens": 5}).attach(tuned)
    with pytest.raises(ModelError, match=r"the model carries a [a-z]+_tuning adapter, the config asks for"):
        (Prompt() if not isinstance(part, Prompt) else Prefix()).attach(tuned)
    if (tmp_path / "prompt_encoder.safetensors").exists():
        (tmp_path / "prompt_encoder.safetensors").unlink()
        with pytest.raises(ModelError, match=r"has no prompt_encoder\.safetensors, .* start from the base model"):
            part.attach(tuned, Run(start=tmp_path))


@pytest.mark.parametrize("kind", ["prompt", "p-tuning", "prefix"])
def test_rows_that_are_scored(run_config: Any, kind: str) -> None:
    """Scores are read at the last token, which only a prefix leaves where it is."""
    from luthier.factory import Factory
    from tests.objectives.conftest import pair_rows

    findings = Factory().prepare(run_config(pair_rows(16), adapter=kind, objective="reward")).report.findings
    errors = [finding.message for finding in findings if finding.level == "error"]
    assert errors == ([] if kind == "prefix" else [f"{kind}: it cannot stand before rows that are scored "
                                                   "(objective: reward); write prefix or lora"])  # fmt: skip
