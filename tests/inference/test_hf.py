"""Answers: the same in a batch, alone and streamed; ended by stop tokens; repeatable; and without side effects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapters.lora import Lora
from luthier.data.conversation import Conversation, Message
from luthier.data.render import Renderer
from luthier.inference import hf
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from luthier.models.load import _use_segment_attention
from tests.conftest import build_model, build_tokenizer

GREEDY = Sampling(max_new_tokens=8)


def ask(text: str) -> Conversation:
    return Conversation((Message(role="user", content=text),))


PROMPTS = [ask("What is the capital of France? " * (i * 5 % 7) + f"{i}?") for i in range(7)]
"""In no order of length."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "BATCH_PROMPTS", 3)


def random_model(tokenizer: Any) -> Any:
    """One that says something else after every prompt."""
    model = build_model(len(tokenizer), initializer_range=0.3, tie_word_embeddings=False).eval()
    _use_segment_attention(model)
    return model


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> HfEngine:
    return HfEngine(random_model(tokenizer), Renderer(tokenizer))


def answers(engine: HfEngine, sampling: Sampling = GREEDY, prompts: list[Conversation] = PROMPTS) -> list[str]:
    found = dict(engine.generate(prompts, sampling))
    assert sorted(found) == list(range(len(prompts)))
    return [found[i] for i in range(len(prompts))]


def by_hand(engine: HfEngine, prompt: Conversation, count: int) -> list[int]:
    """The likeliest token, again and again, without any cache."""
    ids = engine.renderer.prompt(prompt.messages)
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(engine.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in engine.renderer.stop_ids:
            break
    return ids[start:]


def test_batched_alone_streamed_and_by_hand_are_equal(engine: HfEngine) -> None:
    together = answers(engine)
    assert together == [answers(engine, prompts=[prompt])[0] for prompt in PROMPTS]
    for prompt, answer in zip(PROMPTS[:3], together, strict=False):
        assert "".join(engine.stream(prompt, GREEDY)) == answer
        ids = [i for i in by_hand(engine, prompt, GREEDY.max_new_tokens) if i not in engine.renderer.stop_ids]
        assert engine.renderer.tokenizer.decode(ids, skip_special_tokens=True) == answer
    assert len(set(together)) > 5 and all(together), "the random model should say something different to everybody"


def test_answers_to_short_prompts_come_first(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own index."""
    monkeypatch.setattr(hf, "BATCH_PROMPTS", 1)
    lengths = [len(engine.renderer.prompt(PROMPTS[i].messages)) for i, _ in engine.generate(PROMPTS[:5], GREEDY)]
    assert lengths == sorted(lengths)
    assert list(engine.generate([], GREEDY)) == []


@pytest.mark.parametrize("special", [True, False], ids=["control token", "ordinary token"])
def test_a_stop_token_ends_the_answer(engine: HfEngine, special: bool) -> None:
    """Wherever it comes, whether decoding would show it or not, and while others in the batch go on."""
    tokenizer, prompt = engine.renderer.tokenizer, PROMPTS[3]
    said = by_hand(engine, prompt, 8)
    place = next(i for i in range(3, 8) if said[i] not in said[:i])
    stop = said[place]
    if special:
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.convert_ids_to_tokens(stop)]})
    stopping = HfEngine(engine.model, Renderer(tokenizer, stop_ids=[stop]))
    expected = tokenizer.decode(said[:place])
    assert answers(stopping, prompts=PROMPTS[:6])[3] == expected
    assert "".join(stopping.stream(prompt, GREEDY)) == expected
    assert len(expected) < len(answers(engine, prompts=[prompt])[0])


def test_the_longest_answer(engine: HfEngine) -> None:
    (text,) = answers(engine, Sampling(max_new_tokens=1), [PROMPTS[0]])
    assert text == engine.renderer.tokenizer.decode(by_hand(engine, PROMPTS[0], 1))


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_the_padding_token_does_not_matter(engine: HfEngine, pad: str | None) -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = pad
    assert answers(HfEngine(engine.model, Renderer(tokenizer)), prompts=PROMPTS[:5]) == answers(
        engine, prompts=PROMPTS[:5]
    )


@pytest.mark.parametrize(
    "own",
    [
        {"num_beams": 3},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 5.0},
        {"min_new_tokens": 30},
        {"suppress_tokens": list(range(3, 300))},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"max_length": 3},
        {"eos_token_id": 77},
    ],
    ids=lambda own: next(iter(own)),
)
@pytest.mark.parametrize("adapted", [True, False], ids=["adapter", "plain"])
def test_greedy_is_greedy_whatever_the_model_ships(tokenizer: Any, own: dict[str, Any], adapted: bool) -> None:
    """generation_config.json is made for chatting; it would make answers incomparable."""
    from transformers import GenerationConfig

    model = random_model(tokenizer)
    model = Lora(rank=2).attach(model) if adapted else model
    inner = model.get_base_model() if adapted else model
    engine = HfEngine(model, Renderer(tokenizer))
    expected = answers(engine, prompts=PROMPTS[:3])
    settings = GenerationConfig(**own)
    inner.generation_config = settings
    model.generation_config = settings
    assert answers(engine, prompts=PROMPTS[:3]) == expected
    assert inner.generation_config is settings and model.generation_config is settings


def test_a_seed_makes_sampling_repeatable(engine: HfEngine) -> None:
    sampling, prompts = Sampling(max_new_tokens=8, temperature=0.7, seed=4), PROMPTS[:3]
    first = answers(engine, sampling, prompts)
    assert first == answers(engine, sampling, prompts) and first != answers(engine, prompts=prompts)
    assert first != answers(engine, replace(sampling, seed=5), prompts)
    assert "".join(engine.stream(PROMPTS[0], sampling)) == answers(engine, sampling, PROMPTS[:1])[0]


def test_an_answer_does_not_depend_on_those_beside_it(engine: HfEngine) -> None:
    encoded = [engine.renderer.prompt(prompt.messages, prompt.tools) for prompt in PROMPTS]
    sampling, seeds = Sampling(max_new_tokens=8, temperature=1.0), range(7, 7 + len(PROMPTS))
    together = dict(engine.complete(encoded, sampling, seeds=seeds))
    for i, ids in enumerate(encoded):
        assert dict(engine.complete([ids], sampling, seeds=[seeds[i]])) == {0: together[i]}
    others = dict(engine.complete(encoded, sampling, seeds=[seed + 1 for seed in seeds]))
    assert sum(others[i] != together[i] for i in together) > len(PROMPTS) / 2


@pytest.mark.parametrize("seed", [None, 3])
def test_every_batch_draws_anew(engine: HfEngine, seed: int | None) -> None:
    """Although the random state is put back after each."""
    sampling = Sampling(max_new_tokens=8, temperature=2.0, seed=seed)
    same = [PROMPTS[0]] * 9
    first = answers(engine, sampling, same)
    assert len(set(first)) == 9
    assert (answers(engine, sampling, same) == first) is (seed is not None)


def test_sampling_follows_the_distribution(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """First tokens against softmax(logits / temperature), and only likely ones where top_p asks for it."""
    monkeypatch.setattr(hf, "BATCH_PROMPTS", 300)
    prompt, count = PROMPTS[2], 600
    with torch.no_grad():
        logits = engine.model(torch.tensor([engine.renderer.prompt(prompt.messages)]), use_cache=False).logits[0, -1]
    chances, tokens = (logits / 1.5).softmax(-1).sort(descending=True)
    texts = [engine.renderer.tokenizer.decode([token], skip_special_tokens=True) for token in tokens]
    drawn = answers(engine, Sampling(max_new_tokens=1, temperature=1.5, seed=0), [prompt] * count)
    for text in dict.fromkeys(texts[:8]):
        chance = sum(float(p) for p, shown in zip(chances, texts, strict=True) if shown == text)
        assert drawn.count(text) / count == pytest.approx(chance, abs=4 * (chance * (1 - chance) / count) ** 0.5)
    nucleus = int((chances.cumsum(0) < 0.5).sum()) + 1
    likely = answers(engine, Sampling(max_new_tokens=1, temperature=1.5, top_p=0.5, seed=0), [prompt] * count)
    assert set(likely) == set(texts[:nucleus]) and 1 < nucleus < 50


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(max_new_tokens=4, temperature=1.0), Sampling(4, 1.0, 0.9, 7)], ids=str
)
@pytest.mark.parametrize("way", ["generate", "stream"])
def test_the_random_state_stays(engine: HfEngine, sampling: Sampling, way: str) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    list(engine.generate(PROMPTS[:2], sampling) if way == "generate" else engine.stream(PROMPTS[0], sampling))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_reader_that_goes_away_ends_the_answer(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.renderer, "stop_ids", frozenset({10**6}))  # nothing else ends it
    before, tokens = threading.active_count(), []
    with engine.model.register_forward_hook(lambda *_: tokens.append(1)):
        pieces: Iterator[str] = engine.stream(PROMPTS[0], Sampling(max_new_tokens=400))
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and len(tokens) < 200


@pytest.mark.parametrize("when", ["in the model", "in the tokenizer"])
def test_an_error_reaches_the_reader(engine: HfEngine, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    if when == "in the model":
        monkeypatch.setattr(engine.model, "forward", fail)
    else:
        monkeypatch.setattr(type(engine.renderer.tokenizer), "decode", fail)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(engine.stream(PROMPTS[0], Sampling(max_new_tokens=3, temperature=1.0, seed=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_of_a_run(tokenizer: Any, tmp_path: Path) -> None:
    """An adapter that does nothing yet says what its base says."""
    base = random_model(tokenizer)
    expected = answers(HfEngine(base, Renderer(tokenizer)), prompts=PROMPTS[:3])
    assert answers(HfEngine(Lora(rank=2).attach(base), Renderer(tokenizer)), prompts=PROMPTS[:3]) == expected
