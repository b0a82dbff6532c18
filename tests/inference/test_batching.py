"""Answers that join and leave between tokens are the answers that each would be alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from luthier.data.render import Renderer
from luthier.inference import batching
from luthier.inference.batching import BASE, Answer, Batcher
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from tests.inference.test_hf import PROMPTS, random_model

KINDS = [
    Sampling(max_new_tokens=9),
    Sampling(max_new_tokens=4, temperature=1.0, top_k=40),
    Sampling(max_new_tokens=14, temperature=0.8, top_p=0.9, frequency_penalty=0.3),
    Sampling(max_new_tokens=6, repetition_penalty=1.3),
    Sampling(max_new_tokens=1, temperature=1.2, min_p=0.01),
]


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> HfEngine:
    return HfEngine(random_model(tokenizer), Renderer(tokenizer))


def wanted(engine: HfEngine, count: int, adapters: tuple[str, ...] = ("",)) -> list[Answer]:
    answers = []
    for i in range(count):
        prompt = engine.renderer.prompt(PROMPTS[i * 3 % len(PROMPTS)].messages)
        answers.append(Answer(prompt, KINDS[i % len(KINDS)], i, engine.renderer, adapter=adapters[i % len(adapters)]))
    return answers


def alone(engine: HfEngine, answer: Answer) -> list[int]:
    one = Answer(answer.prompt, answer.sampling, answer.seed, answer.renderer, adapter=answer.adapter)
    batcher = Batcher(engine.model, 0, slots=1)
    batcher.waiting.append(one)
    assert list(batcher.run()) == [one]
    return one.ids


def test_answers_that_come_and_go_are_those_of_each_alone(engine: HfEngine) -> None:
    answers = wanted(engine, 25)
    batcher, most, steps = Batcher(engine.model, 0, slots=6), 0, 0
    for answer in answers:
        batcher.waiting.append(answer)
        batcher.step()
        steps += 1
        most = max(most, batcher.busy)
    while batcher.waiting or batcher.running:
        batcher.step()
        steps += 1
        most = max(most, batcher.busy)
    assert most == 6 and steps < sum(len(answer.ids) for answer in answers) / 2
    assert [answer.ids for answer in answers] == [alone(engine, answer) for answer in answers]


def test_equal_prompts_are_computed_once(engine: HfEngine) -> None:
    prompt, seen = engine.renderer.prompt(PROMPTS[1].messages), list[int]()
    answers = [Answer(prompt, Sampling(6, 1.5), seed, engine.renderer) for seed in range(4)]
    batcher = Batcher(engine.model, 0, slots=4)
    batcher.waiting.extend(answers)
    with engine.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    ):
        batcher.step()
    assert seen == [len(prompt), 4]
    list(batcher.run())
    assert [answer.ids for answer in answers] == [alone(engine, answer) for answer in answers]
    assert len({tuple(answer.ids) for answer in answers}) == 4


def test_a_step_takes_in_no_more_than_it_should(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PREFILL_TOKENS", 30)
    answers = wanted(engine, 6)
    batcher = Batcher(engine.model, 0, slots=6)
    batcher.waiting.extend(answers)
    batcher.step()
    assert 0 < len(batcher.waiting) < 6
    list(batcher.run())
    assert [answer.ids for answer in answers] == [alone(engine, answer) for answer in answers]


def test_one_that_is_not_wanted_any_more_leaves_within_a_token(engine: HfEngine) -> None:
    answers = wanted(engine, 5)
    for answer in answers:
        answer.sampling = replace(answer.sampling, max_new_tokens=12)
    batcher = Batcher(engine.model, 0, slots=3)
    batcher.waiting.extend(answers)
    batcher.step()
    length = len(answers[1].ids)
    answers[1].cancelled = answers[4].cancelled = True
    batcher.step()
    assert answers[1].finish == "cancelled" and len(answers[1].ids) == length
    assert answers[4].finish == "cancelled" and not answers[4].ids, "although no slot is free yet"
    list(batcher.run())
    assert batcher.busy == 0
    for i in (0, 2, 3):
        assert answers[i].ids == alone(engine, answers[i])


def test_a_failure_is_told_to_those_it_meets(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, told = wanted(engine, 2), list[str]()
    batcher = Batcher(engine.model, 0, slots=2)
    for answer in answers:
        answer.tell = lambda one: told.append(one.finish)
    batcher.waiting.extend(answers)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", fail)
        batcher.step()
    assert told == ["error", "error"] and str(answers[0].error) == "out of memory" and not batcher.running
    batcher.waiting.extend(wanted(engine, 2))
    assert len(list(batcher.run())) == 2


@pytest.mark.parametrize("stacked", [True, False], ids=["by name", "and base"])
def test_adapters_are_switched_from_request_to_request(tokenizer: Any, tmp_path: Path, stacked: bool) -> None:
    from peft import LoraConfig, get_peft_model

    base = random_model(tokenizer)
    plain = HfEngine(base, Renderer(tokenizer))
    untouched = [alone(plain, answer) for answer in wanted(plain, 8)]
    settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "down_proj"])
    torch.manual_seed(1)
    model: Any = get_peft_model(base, settings, adapter_name="one")
    model.add_adapter("two", settings)
    engine = HfEngine(model.eval(), Renderer(tokenizer))
    answers = wanted(engine, 12, ("one", "two") if stacked else ("two", BASE, "one"))
    batcher = Batcher(model, 0, slots=5)
    batcher.waiting.extend(answers)
    list(batcher.run())
    for answer in answers:
        model.set_adapter(answer.adapter if answer.adapter != BASE else "one")
        assert answer.ids == alone(engine, answer)
    for i, answer in enumerate(answers[:8]):
        assert (answer.ids == untouched[i]) is (answer.adapter == BASE) or len(answer.ids) == 1


SIZES = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, initializer_range=0.3))
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(**SIZES))
    if kind == "gemma3":
        settings = {"sliding_window": 16, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
        return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **HEADS, **settings))
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS))


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "qwen2", "mamba"])
def test_other_shapes_of_models(tokenizer: Any, kind: str) -> None:
    """Learned places, a window that is shorter than the prompts, biases, and a state that nobody can pad."""
    model = build(kind).eval()
    engine = HfEngine(model, Renderer(tokenizer))
    answers = wanted(engine, 10)
    batcher = Batcher(model, 0, slots=4)
    batcher.waiting.extend(answers)
    list(batcher.run())
    for answer in answers:
        assert answer.ids == alone(engine, answer)
    ids = list(answers[0].prompt)
    for _ in answers[0].ids:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert ids[len(answers[0].prompt) :] == answers[0].ids
