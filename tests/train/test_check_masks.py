"""Every wrong mask is planted and must be found in its row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest

import luthier
from luthier.data.conversation import Origin
from luthier.data.pack import Example
from luthier.data.render import Tokens
from luthier.errors import RowError, TemplateError
from luthier.factory import Factory
from luthier.train.check import _end_of_turn, _mask, _prompt
from tests.conftest import SPECIAL, build_tokenizer, chat_rows
from tests.data.shapes import CONVERSATIONS, SHAPES
from tests.data.test_render import renderer
from tests.train.conftest import Make, check, planted, problems, turns


def spans(tokens: Tokens) -> list[tuple[int, int]]:
    """Where supervised stretches begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], tokens.weights > 0, [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def weighted(tokens: Tokens, start: int, end: int, weight: float) -> Tokens:
    weights = tokens.weights.copy()
    weights[start:end] = weight
    return Tokens(tokens.ids, weights)


def end_unsupervised(tokens: Tokens) -> Tokens:
    end = spans(tokens)[-1][1]
    return weighted(tokens, end - 1, end, 0)


def end_missing(tokens: Tokens) -> Tokens:
    end = spans(tokens)[-1][1]
    return Tokens(tokens.ids[: end - 1], tokens.weights[: end - 1])


def first_word_unsupervised(tokens: Tokens) -> Tokens:
    start = spans(tokens)[0][0]
    return weighted(tokens, start, start + 2, 0)


def hole(tokens: Tokens) -> Tokens:
    start = spans(tokens)[0][0]
    return weighted(tokens, start + 2, start + 3, 0)


def first_turn_unsupervised(tokens: Tokens) -> Tokens:
    return weighted(tokens, *spans(tokens)[0], 0)


def header(tokens: Tokens, mark: int = SPECIAL.index("<|im_start|>")) -> int:
    """Where the header of the first answer begins."""
    return int(np.flatnonzero(tokens.ids[: spans(tokens)[0][0]] == mark)[-1])


def header_supervised(tokens: Tokens) -> Tokens:
    return weighted(tokens, header(tokens), spans(tokens)[0][0], 1)


def control_token_supervised(tokens: Tokens) -> Tokens:
    """Only the `<|im_start|>` of the answer, which reads as no text."""
    return weighted(tokens, header(tokens), header(tokens) + 1, 1)


def all_supervised(tokens: Tokens) -> Tokens:
    return weighted(tokens, 1, len(tokens), 1)


def shifted(tokens: Tokens) -> Tokens:
    return Tokens(tokens.ids, np.roll(tokens.weights, 1))


def question_instead(tokens: Tokens) -> Tokens:
    start, end = spans(tokens)[0]
    return weighted(weighted(tokens, start, end, 0), 4, 10, 1)


@pytest.mark.parametrize(
    ("change", "names", "detail"),
    [
        (end_unsupervised, {"end-of-turn"}, "does not end with an end-of-turn token"),
        (end_missing, {"end-of-turn"}, "does not end with an end-of-turn token"),
        (first_word_unsupervised, {"mask"}, "the supervised text lacks what the assistant says: 'It is"),
        (hole, {"mask", "end-of-turn"}, "the supervised text lacks what the assistant says: 'It is"),
        (first_turn_unsupervised, {"mask"}, "the supervised text lacks what the assistant says: 'It is"),
        (header_supervised, {"mask", "end-of-turn"}, "text is supervised that the assistant does not say: 'assistant'"),
        (control_token_supervised, {"end-of-turn"}, "<|im_start|>"),
        (all_supervised, {"mask", "end-of-turn"}, "<|im_end|> is supervised, and no answer ends there"),
        (shifted, {"mask", "end-of-turn"}, "the supervised text lacks what the assistant says"),
        (question_instead, {"mask", "end-of-turn"}, "the supervised text lacks what the assistant says"),
    ],
)
@pytest.mark.parametrize("over_length", ["error", "truncate", "split"])
def test_a_wrong_mask(
    run_config: Make, change: Callable[[Tokens], Tokens], names: set[str], detail: str, over_length: str
) -> None:
    """Also where rows may be cut: a row that was not cut gets no grace."""
    rows = [turns(f"What is {i}?", f"It is {i}, of course.", "And then?", f"Then comes {i + 1}.") for i in range(12)]
    found = problems(planted(run_config(rows, data__over_length=over_length), change))
    assert {f.name for f in found if f.level == "error"} == names
    assert any(detail in f.message for f in found)


@pytest.mark.parametrize("over_length", ["truncate", "split"])
def test_rows_that_were_cut_are_fine(run_config: Make, over_length: str) -> None:
    """In the middle of an answer, of a character, before an answer, between two of them."""
    rows = [*chat_rows(4), turns("Go on?", "And so on. " * 40), turns("中文?", "很好很好很好很好很好" * 6)]
    rows.append(turns("One?", "One. " * 12, "Two?", "Two. " * 12, "Three?", "Three. " * 12))
    for limit in (41, 42, 43, 64, 65):
        config = run_config(rows, data__over_length=over_length, data__max_length=limit, data__bad_rows="drop")
        ready = Factory().prepare(config)
        assert ready.data.ledger.count("truncated" if over_length == "truncate" else "split") >= 3
        assert [f for f in ready.report.findings if f.level == "error"] == []


def test_a_wrong_mask_in_a_row_that_was_cut(run_config: Make) -> None:
    rows = [*chat_rows(4), turns("Go on?", "And so on. " * 40)]
    config = run_config(rows, data__over_length="truncate", data__max_length=64)
    place = next(i for i, e in enumerate(Factory().prepare(config).data.train) if e.tokens == 64)
    found = planted(config, all_supervised, at=place)
    assert any(f.name == "mask" and "that the assistant does not say: 'user" in f.message for f in problems(found))


def test_answers_that_contain_each_other(run_config: Make) -> None:
    """Nothing is wrong: 10 before 101 reads 10101, in which 101 is found at two places."""
    rows = [turns("2?", "10", "5?", "101"), turns("2?", "ab", "5?", "aba", "6?", "a"), *chat_rows(4)]
    assert not problems(check(run_config(rows)).report.findings)


def test_a_doubled_answer_is_found(run_config: Make) -> None:
    def twice(tokens: Tokens) -> Tokens:
        start, end = spans(tokens)[0]
        ids = np.concatenate([tokens.ids[: end - 1], tokens.ids[start:end]])
        return Tokens(ids, np.concatenate([tokens.weights[: end - 1], tokens.weights[start:end]]))

    found = planted(run_config(chat_rows(12)), twice)
    assert [f.name for f in problems(found)] == ["mask"]


HEADED = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}CHANNEL{% endif %}<|message|>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""The role between control tokens, and a channel that the model names before its answer."""


@pytest.mark.parametrize("channel", ["", "<|channel|>final"], ids=["llama 3", "gpt-oss"])
def test_words_between_control_tokens(with_tokenizer: Make, channel: str) -> None:
    """A channel is the model's to name, a role never is."""
    template = HEADED.replace("CHANNEL", channel) + (
        "" if channel else "{% if add_generation_prompt %}<|message|>{% endif %}"
    )
    special = ["<|endoftext|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>"]
    tokenizer = build_tokenizer(special=special, template=template, eos="<|end|>")
    config = with_tokenizer(tokenizer, [turns(f"{i}?", f"It is {i}.") for i in range(9)])
    shown = Factory().prepare(config).report.samples[0].pieces
    assert [text.startswith(f"{channel}<|message|>It" if channel else "It") for text, on in shown if on] == [True]

    def role_supervised(tokens: Tokens) -> Tokens:
        return weighted(tokens, header(tokens, special.index("<|start|>")), spans(tokens)[0][0], 1)

    for change in (role_supervised, all_supervised, first_word_unsupervised, end_unsupervised):
        found = problems(planted(config, change))
        assert found and {f.name for f in found} <= {"mask", "end-of-turn"}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_false_alarm(shape: str) -> None:
    """Every published template, every kind of conversation: what the renderer made and its own tests hold passes."""
    render, checked = renderer(shape), 0
    for name, talk in CONVERSATIONS.items():
        with contextlib.suppress(RowError, TemplateError):
            example = Example(Origin(name, 1), "", tuple(render.conversation(talk)), talk)
            assert _mask(example, render, cut=False) is None
            assert _end_of_turn(example, render, cut=False) is None
            assert _prompt(example, render) is None
            checked += 1
    assert checked or "wrong" in shape


def test_a_tokenizer_that_normalises(with_tokenizer: Make) -> None:
    """What it reads back is another spelling of what was said."""
    from tokenizers import normalizers

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    config = with_tokenizer(tokenizer, [turns(f"{i}?", f"½ ﬁ Ａ e\u0301 {i}") for i in range(9)])
    assert "½" not in Factory().prepare(config).report.samples[0].pieces[1][0]
    assert not problems(check(config).report.findings)


def test_pad_is_eos(with_tokenizer: Make) -> None:
    """The end token stays supervised where it is the padding token as well, and the run trains."""
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    config = with_tokenizer(tokenizer, chat_rows(12), data__packing=False, train__max_steps=2)
    ready = check(config)
    assert not problems(ready.report.findings) and ready.layout.pad_id == tokenizer.eos_token_id
    for example in ready.data.train:
        (tokens,) = example.sequences
        (span,) = spans(tokens)
        assert tokens.ids[span[1] - 1] == tokenizer.eos_token_id
    assert [f.name for f in problems(planted(config, end_unsupervised))] == ["end-of-turn"]
    assert luthier.Factory().fine_tune(config).metrics["steps"] == 2
