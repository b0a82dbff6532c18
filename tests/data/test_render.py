"""The loss mask, token for token, against the oracle in `shapes.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.conversation import Conversation, Message, Text
from luthier.data.render import Renderer, Tokens
from luthier.errors import RowError, TemplateError
from tests.conftest import TEXT, build_tokenizer
from tests.data.shapes import CONVERSATIONS, HERE, SHAPES, SPOKEN, Shape

WHITE = ["a\n\nb\n\n\nc\n \n \n\n  d  e    f. \n\n\t\t"]
ROLES = ("user", "assistant")


# ---- renderers ---------------------------------------------------------------------------------------------------


def template(name: str) -> str:
    return (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def renderer(name: str) -> Renderer:
    """The renderer of a shape, on a tokenizer that has tokens for runs of white space."""
    from tokenizers import AddedToken, Regex, pre_tokenizers, processors

    shape = SHAPES[name]
    plain = [token for token in shape.special if token not in shape.swallows]
    tokenizer = build_tokenizer(plain, template(name), shape.eos or shape.end)
    if shape.pattern:
        split = pre_tokenizers.Split(Regex(shape.pattern), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer = tokenizer.train_new_from_iterator((TEXT + WHITE) * 4, vocab_size=600, show_progress=False)
    marks = [AddedToken(token, rstrip=True, special=True) for token in shape.swallows]
    tokenizer.add_tokens([*marks, *(AddedToken(word, special=False, normalized=False) for word in shape.words)])
    if shape.bos:
        tokenizer.bos_token = shape.bos
        adds = processors.TemplateProcessing(f"{shape.bos} $A", special_tokens=[(shape.bos, tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = adds
        assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (shape.end, *shape.stops)]
    return Renderer(tokenizer, stop_ids=stops)


@pytest.fixture(scope="session", autouse=True)
def _renderers() -> None:
    for name in SHAPES:
        renderer(name)


# ---- the checks --------------------------------------------------------------------------------------------------


def spans(tokens: Tokens) -> list[tuple[int, int]]:
    """Begin and end of each stretch of supervised tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], tokens.weights > 0, [0]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def trained(talk: Conversation) -> list[int]:
    return [i for i, m in enumerate(talk.messages) if m.role == "assistant" and m.weight > 0]


def check(name: str, talk: Conversation) -> list[list[int]]:
    """Every supervised span against the oracle, and what stands before it against serving; the turns by sequence."""
    shape, render = SHAPES[name], renderer(name)
    served = {turn: render.prompt(talk.messages[:turn], talk.tools) for turn in trained(talk)}
    groups: list[list[int]] = []
    for tokens in render.conversation(talk):
        groups.append([])
        assert (tokens.ids.dtype, tokens.weights.dtype) == (np.int32, np.float32)
        assert len(tokens) == spans(tokens)[-1][1], "nothing may follow the last answer"
        for begin, end in spans(tokens):
            fed = [turn for turn, ids in served.items() if ids == tokens.ids[:begin].tolist()]
            assert fed, "serving never feeds what stands before this answer"
            del served[fed[0]]
            groups[-1] += fed
            check_span(shape, render, talk, fed[0], tokens.ids[:end].tolist(), begin)
            assert tokens.weights[begin:end].tolist() == [talk.messages[fed[0]].weight] * (end - begin)
    assert not served, "an answer is not learnt"
    return groups


def check_span(shape: Shape, render: Renderer, talk: Conversation, turn: int, ids: list[int], begin: int) -> None:
    """Ids up to the end of one answer, which begins at `begin`."""
    said, tokenizer = shape.says(talk.messages[turn]), render.tokenizer
    assert tokenizer.decode(ids[begin:]) == (said.lstrip() if shape.swallows else said)
    stop = tokenizer.convert_tokens_to_ids("<|call|>" if said.endswith("<|call|>") else shape.end)
    assert ids[begin:].index(stop) == len(ids) - begin - 1, "one end-of-turn token, and at the end"
    prompt = render.prompt_text(talk.messages[:turn], talk.tools)
    joined = tokenizer(prompt + said, add_special_tokens=False)["input_ids"]
    if joined[:begin] == ids[:begin]:
        assert ids == joined
    else:  # served ids stand as they are, so only the answer is encoded
        assert prompt[-1].isspace()
        assert said[0].isspace()
        assert ids[begin:] == tokenizer(said, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    assert bos is None or [token == bos for token in ids[:2]] == [True, False]
    messages = [m.for_template() for m in talk.messages[: turn + 1]]
    told = tokenizer.apply_chat_template(messages, tools=list(talk.tools) or None, tokenize=False)
    assert shape.rewrites or told.startswith(prompt + said.removesuffix(shape.end))


def expected(shape: Shape, talk: Conversation) -> list[list[int]]:
    """Each turn with the last one that has it in history as it was said, or in a sequence of its own."""
    groups: list[list[int]] = []
    for turn in reversed(trained(talk)):
        home = next((group for group in groups if not shape.apart(talk.messages, turn, group[-1])), None)
        if home is None:
            groups.append([turn])
        else:
            home.insert(0, turn)
    return groups[::-1]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_supervised_text_is_what_the_format_says(name: str, talk: str) -> None:
    shape, conversation = SHAPES[name], CONVERSATIONS[talk]
    if talk in shape.refused:
        with pytest.raises(RowError) as refusal:
            renderer(name).conversation(conversation)
        assert refusal.value.reason == shape.refused[talk]
        return
    assert check(name, conversation) == expected(shape, conversation)


@pytest.mark.parametrize("name", ["chatml", "qwen3", "deepseek_r1"])
@pytest.mark.parametrize("talk", SPOKEN)
def test_thoughts_before_every_answer(name: str, talk: str) -> None:
    messages = [
        replace(m, content=f"<think>\nAnswer {i}.\n</think>\n\n{m.content}") if m.role == "assistant" else m
        for i, m in enumerate(CONVERSATIONS[talk].messages)
    ]
    conversation = Conversation(tuple(messages))
    assert check(name, conversation) == expected(SHAPES[name], conversation)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("place", ["content", "reasoning", "argument", "nested argument", "tool"])
def test_text_of_a_control_token_is_refused(name: str, place: str) -> None:
    for token in (*SHAPES[name].special, *SHAPES[name].stops):
        text = f"<think>\nAh.\n</think>\n\nIt is {token}, isn't it?"
        call = {"type": "function", "function": {"name": "look", "arguments": {"place": "here"}}}
        if "argument" in place:
            call["function"]["arguments"] = {"place": text} if place == "argument" else {"a": [{"b": {text: 1}}]}
        if place == "tool":
            call["function"]["name"] = token
        answer = Message(
            role="assistant",
            content=text if place == "content" else "4",
            reasoning=text if place == "reasoning" else None,
            tool_calls=() if place in ("content", "reasoning") else (call,),
        )
        with pytest.raises(RowError, match="control token") as refusal:
            renderer(name).conversation(Conversation((Message(role="user", content="2 + 2?"), answer)))
        assert refusal.value.reason == "control-token"


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"deepseek_r1"}))
def test_control_tokens_in_a_question_do_not_move_the_mask(name: str) -> None:
    tokens = "".join(SHAPES[name].special)
    question = Message(role="user", content=f"What are{tokens}?")
    check(name, Conversation((question, Message(role="assistant", content="Tokens"))))


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_answer_is_refused(name: str) -> None:
    silent = Conversation((Message(role="user", content="2 + 2?"), Message(role="assistant", content=" \n")))
    with pytest.raises(RowError) as refusal:
        renderer(name).conversation(silent)
    assert refusal.value.reason == "empty-answer"


# ---- any text ----------------------------------------------------------------------------------------------------

PIECES = [
    "<|im_",
    "end|>",
    "</s",
    "<think>",
    "</think>",
    "{{",
    "%}",
    "\n\n",
    " ",
    "\t",
    "s",
    "end",
    "assistant",
    "[/IN",
]
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=" \n\r\t\u00a0\u2028a.|", max_size=8),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=2)), max_size=6).map("".join),
)


def refusals(shape: Shape, render: Renderer, answers: Sequence[str]) -> set[str]:
    """The reasons for which any of these answers may be refused."""
    reasons = {"control-token" for a in answers if any(c in a for c in render.control)}
    reasons |= {"empty-answer" for a in answers if not a.replace("<think>", "").replace("</think>", "").strip()}
    if shape is SHAPES["qwen3"]:
        reasons |= {"drops-answer" for a in answers if "</think>" in a}
    return reasons


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "mistral", "glm4"])
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@example(system=None, questions=("", ""), answers=("0", "<|im_<think>\r"))
@example(system=None, questions=("", ""), answers=("0", "<think><think></think>"))
@example(system=None, questions=("", ""), answers=("0", "a<think></think>b"))
@given(system=st.none() | TEXTS, questions=st.tuples(TEXTS, TEXTS), answers=st.tuples(TEXTS, TEXTS))
def test_any_text_is_masked_exactly_or_refused_by_name(
    name: str, system: str | None, questions: tuple[str, str], answers: tuple[str, str]
) -> None:
    messages = [] if system is None else [Message(role="system", content=system)]
    for said in zip(questions, answers, strict=True):
        messages += [Message(role=role, content=text) for role, text in zip(ROLES, said, strict=True)]
    possible = refusals(SHAPES[name], renderer(name), answers)
    if name == "mistral" and system is not None:
        possible |= {"template", "drops-answer"}  # a question that the border cannot be found by
    try:
        check(name, Conversation(tuple(messages)))
    except RowError as refusal:
        assert refusal.reason in possible
    else:
        assert not possible & {"control-token"}
        assert all(answer.strip() for answer in answers)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@example(question=">", thoughts="", answer="0")
@given(question=TEXTS, thoughts=st.text(max_size=12), answer=st.text(max_size=12))
def test_any_thoughts_are_opened_by_the_prompt(question: str, thoughts: str, answer: str) -> None:
    content = f"<think>\n{thoughts.strip()}\n</think>\n\n{answer}"
    talk = Conversation((Message(role="user", content=question), Message(role="assistant", content=content)))
    try:
        check("deepseek_r1", talk)
    except RowError as refusal:
        assert refusal.reason in ("drops-answer", "empty-answer")
        assert not answer.strip() or "think>" in thoughts + answer


# ---- single rules ------------------------------------------------------------------------------------------------


def changed(name: str, **parts: Any) -> Renderer:
    """A shape's renderer with another template, end token or options."""
    base = renderer(name)
    tokenizer = type(base.tokenizer)(tokenizer_object=base.tokenizer.backend_tokenizer, chat_template=None)
    tokenizer.chat_template = parts.get("chat_template", base.tokenizer.chat_template)
    tokenizer.eos_token = parts.get("eos_token", base.tokenizer.eos_token)
    return Renderer(tokenizer, stop_ids=parts.get("stop_ids", ()), options=parts.get("options"))


@pytest.mark.parametrize("wrong", ["marked_wrong", "marked_user"])
def test_wrongly_placed_generation_tags_are_refused_by_name(wrong: str) -> None:
    with pytest.raises(TemplateError, match=r"marks .* as generated"):
        changed("marked", chat_template=template(wrong)).conversation(CONVERSATIONS["one_turn"])


def test_generation_tags_agree_where_tokens_cut_a_character() -> None:
    assert CONVERSATIONS["unicode"].messages[-1].content.endswith("🌈")
    check("marked", CONVERSATIONS["unicode"])


def test_a_template_that_writes_calls_but_no_tools_is_refused() -> None:
    with pytest.raises(RowError, match="get_weather") as refusal:
        changed("chatml", chat_template=template("calls_only")).conversation(CONVERSATIONS["tools"])
    assert refusal.value.reason == "drops-tools"


def test_a_call_that_only_the_thoughts_name_is_dropped() -> None:
    content = "<think>\nI call get_weather.\n</think>\n\nOne moment."
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {}}}
    answer = Message(role="assistant", content=content, tool_calls=(call,))
    with pytest.raises(RowError) as refusal:
        renderer("deepseek_r1").conversation(Conversation((Message(role="user", content="Rain?"), answer)))
    assert refusal.value.reason == "drops-answer"


def test_without_thinking_the_prompt_holds_the_empty_thought() -> None:
    render = changed("qwen3", options={"enable_thinking": False})
    texts = [render.tokenizer.decode(t.ids[t.weights > 0]) for t in render.conversation(CONVERSATIONS["multi_turn"])]
    assert texts == [m.content + "<|im_end|>" for m in CONVERSATIONS["multi_turn"].messages[1::2]]


def test_a_stop_token_beyond_the_vocabulary_is_no_text() -> None:
    render = changed("chatml", stop_ids=[2, 10**6])
    assert "None" not in render.control
    (tokens,) = render.conversation(CONVERSATIONS["short_answers"])
    assert len(spans(tokens)) == 5


def test_the_end_token_is_that_of_the_turn_also_where_it_does_not_stop_generation() -> None:
    (tokens,) = changed("phi3").conversation(CONVERSATIONS["multi_turn"])
    assert len(spans(tokens)) == 3
    opens_next = template("chatml") + "{% if not add_generation_prompt %}<|im_start|>{% endif %}"
    render = changed("chatml", chat_template=opens_next, eos_token="<|endoftext|>")
    (tokens,) = render.conversation(CONVERSATIONS["one_turn"])
    assert render.tokenizer.decode(tokens.ids[tokens.weights > 0]) == "Paris.<|im_end|>"


def test_a_question_that_is_rewritten_once_answered_is_not_mistaken_for_an_earlier_one() -> None:
    render = changed("chatml", chat_template=template("last_question"))
    texts = ["2 + 2? /think", "4", "2 + 2?", "Still 4"]
    turns = [Message(role=role, content=text) for role, text in zip(ROLES * 2, texts, strict=True)]
    with pytest.raises(RowError) as refusal:
        render.conversation(Conversation((*turns[:1], replace(turns[1], weight=0), *turns[2:])))
    assert refusal.value.reason == "template"


def test_no_template_and_no_end_token_are_faults_of_the_template() -> None:
    with pytest.raises(TemplateError, match=r"model\.chat_template"):
        changed("chatml", chat_template=None).conversation(CONVERSATIONS["one_turn"])
    with pytest.raises(TemplateError, match="no end token"):
        changed("glm4", eos_token=None).conversation(CONVERSATIONS["one_turn"])


def test_a_sentencepiece_tokenizer_keeps_the_border() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    model.decoder = decoders.Metaspace(prepend_scheme="never")
    model.train_from_iterator(TEXT + WHITE, trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", chat_template=template("llama2")
    )
    talk = Conversation(
        tuple(replace(m, content=m.content.replace("H", "h")) for m in CONVERSATIONS["multi_turn"].messages[:2])
    )
    (tokens,) = Renderer(tokenizer).conversation(talk)
    whole = tokenizer(f"<s>[INST] hello [/INST] {talk.messages[1].content} </s>", add_special_tokens=False)["input_ids"]
    assert tokens.ids.tolist() == whole


# ---- every token supervised --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_a_whole_conversation_is_the_template_with_one_end(name: str) -> None:
    render, talk = renderer(name), CONVERSATIONS["multi_turn"]
    text = render.tokenizer.apply_chat_template([m.for_template() for m in talk.messages], tokenize=False)
    tokens = render.whole(talk)
    whole = text + ("<|endoftext|>" if name == "glm4" else "")
    assert tokens.ids.tolist() == render.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokens.weights.tolist() == [0.0] + [1.0] * (len(tokens) - 1)
    assert tokens.ids[0] != tokens.ids[1]


@pytest.mark.parametrize("adds", ["<s> $A", "<s> $A </s>", "$A"])
@pytest.mark.parametrize("text", ["Hello again", "<s>Hello again", "Hello again</s>", "<s>Hello again</s>"])
def test_a_whole_text_has_one_beginning_and_one_end(adds: str, text: str) -> None:
    from tokenizers import processors

    render = changed("llama2")
    render.tokenizer.bos_token = "<s>"
    ids = [(token, render.tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    render.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(adds, special_tokens=ids)
    tokens = render.whole(Text(text))
    begins = "<s>" if adds.startswith("<s>") or text.startswith("<s>") else ""
    assert render.tokenizer.decode(tokens.ids) == f"{begins}Hello again</s>"
    assert tokens.weights.tolist() == [0.0] + [1.0] * (len(tokens) - 1)
