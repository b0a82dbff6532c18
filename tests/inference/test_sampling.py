"""How tokens are chosen: as transformers' warpers choose, penalties by their own meanings, held to a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Conversation, Message
from luthier.data.render import Renderer
from luthier.errors import UserError
from luthier.inference.engine import Sampling
from luthier.inference.hf import HfEngine
from luthier.inference.sampling import Draw, likely
from tests.inference.test_hf import ask, random_model

NUMBERS = st.lists(st.integers(-80, 80).map(lambda n: n / 4), min_size=4, max_size=30, unique=True)


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> HfEngine:
    return HfEngine(random_model(tokenizer), Renderer(tokenizer))


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.integers(0, 8), st.sampled_from([1.0, 0.9, 0.5, 0.1]), st.sampled_from([0.0, 0.05, 0.5]))
def test_what_is_left_out_is_what_transformers_leaves_out(
    numbers: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.tensor(numbers)
    expected = scores[None]
    for wanted, warper in (
        (top_k > 0, lambda: TopKLogitsWarper(top_k)),
        (top_p < 1, lambda: TopPLogitsWarper(top_p)),
        (min_p > 0, lambda: MinPLogitsWarper(min_p)),
    ):
        expected = warper()(None, expected) if wanted else expected
    assert torch.equal(likely(scores, Sampling(top_k=top_k, top_p=top_p, min_p=min_p)), expected[0])


def test_each_penalty_means_its_own() -> None:
    """Prompt 1, said 2 twice: what the likeliest token becomes, worked out by hand."""
    logits = torch.tensor([-1.0, 3.0, 4.0, 2.5])

    def drawn(**changes: float) -> int:
        return Draw(Sampling(**changes), 0, [1])(logits, [2, 2])

    assert drawn() == 2
    assert drawn(presence_penalty=0.9) == 2 and drawn(presence_penalty=1.1) == 1  # the prompt does not count
    assert drawn(frequency_penalty=0.4) == 2 and drawn(frequency_penalty=0.6) == 1  # twice
    assert drawn(repetition_penalty=1.5) == 2  # 2, 2.67, 2.5: the prompt counts
    assert drawn(repetition_penalty=1.7) == 3
    assert Draw(Sampling(repetition_penalty=10.0), 0, [0])(torch.tensor([-1.0, -2.0]), []) == 1  # negative: multiplied


def test_an_answer_is_held_to_a_schema(engine: HfEngine) -> None:
    """By a model that would say anything; beside answers that are free, which stay what they were."""
    schema = {
        "type": "object", "additionalProperties": False, "required": ["ok", "n"],
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [7, 12]}},
    }  # fmt: skip
    held = Sampling(max_new_tokens=60, temperature=1.0, seed=3, schema=json.dumps(schema))
    for _, text in engine.generate([ask("a"), ask("b c d e")], held):
        told = json.loads(text)
        assert isinstance(told["ok"], bool) and told["n"] in (7, 12) and len(told) == 2
    with pytest.raises(UserError, match="not a JSON schema"):
        list(engine.generate([ask("a")], Sampling(schema='{"type": "never"}')))


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(engine: HfEngine, way: str) -> None:
    """Across the borders of tokens; nothing that may become one is shown."""

    def said(sampling: Sampling) -> str:
        if way == "stream":
            pieces = list(engine.stream(ask("What?"), sampling))
            assert all(pieces)
            return "".join(pieces)
        return dict(engine.generate([ask("What?")], sampling))[0]

    whole = said(Sampling(max_new_tokens=40))
    stop = whole[9:14]
    assert said(Sampling(max_new_tokens=40, stop=("never said", stop))) == whole[: whole.index(stop)]
    assert said(Sampling(max_new_tokens=40, stop=(whole[-1] + "x",))) == whole


def test_logprobs_are_the_models_own(engine: HfEngine) -> None:
    """Whatever temperature and penalties make of them."""
    ids = engine.renderer.prompt((Message(role="user", content="What?"),))
    sampling = Sampling(max_new_tokens=5, temperature=3.0, presence_penalty=1.0, seed=1, logprobs=3)
    answer = engine.answer(ids, sampling, 1)
    for _ in engine._batcher([answer]).run():
        pass
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids + answer.ids]), use_cache=False).logits[0, len(ids) - 1 : -1]
    for token, own, (chance, best) in zip(answer.ids, logits.log_softmax(-1), answer.chances, strict=True):
        assert chance == pytest.approx(float(own[token]), abs=1e-4)
        assert [one for one, _ in best] == own.topk(3).indices.tolist()


def test_the_prompt_may_be_a_conversation_with_tools(engine: HfEngine) -> None:
    assert len(dict(engine.generate([Conversation((Message(role="user", content="x"),))], Sampling(4)))) == 1
