"""Models that do not fit the data are refused; clean runs of all kinds pass without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config import RunConfig
from luthier.data.pack import Layout
from luthier.factory import Factory
from luthier.kernels import attention
from luthier.models.load import _use_segment_attention
from luthier.train.check import Finding
from luthier.train.proof import check_model
from tests.conftest import build_model, chat_rows
from tests.train.conftest import Make, check, problems, the_one, turns


def test_a_tokenizer_bigger_than_the_embedding(with_tokenizer: Make, tokenizer: Any, tmp_path: Path) -> None:
    rows = [turns("abc?", "def."), turns("How do I train?", "Run luthier train."), turns("abc?", "ghi.")]
    examples = Factory().prepare(with_tokenizer(tokenizer, rows, data__held_out=0.0)).data.train
    low, high, also_low = (int(example.sequences[0].ids.max()) for example in examples)
    assert low == also_low < high
    found = check(with_tokenizer(tokenizer, rows, vocabulary=high, data__held_out=0.0)).report.findings
    the_one(found, "error", "vocabulary", f"embeds {high} token ids", f"{tmp_path}/train.jsonl:2: token id {high}")
    assert "train.jsonl:1" not in problems(found)[0].message


@pytest.mark.parametrize("side", ["train", "held_out"])
def test_positions(run_config: Make, write_rows: Callable[..., Path], tmp_path: Path, side: str) -> None:
    rows, long = chat_rows(6), turns("Go on?", "qz" * 300)
    held = write_rows([turns("New?", "Yes."), *([long] if side == "held_out" else [])], "held.jsonl")
    rows += [long] if side == "train" else []
    found = check(run_config(rows, data__max_length=2000, data__held_out=[str(held)])).report.findings
    file, line = ("train.jsonl", 7) if side == "train" else ("held.jsonl", 2)
    the_one(
        found, "error", "positions", "the model knows 512 positions", f"{tmp_path}/{file}:{line}: ", "data.max_length"
    )


def test_positions_of_answers(online: Make) -> None:
    """What is drawn must have room behind its prompt."""
    found = check(online("grpo", None, {"max_new_tokens": 500})).report.findings
    errors = [finding for finding in found if finding.level == "error"]
    the_one(errors, "error", "positions", "of which an answer (objective.max_new_tokens) takes 500")


def model_findings(model: Any, config: RunConfig) -> list[Finding]:
    ready = Factory().prepare(config)
    return check_model(model, ready.data, Layout(packing=True, tokens=512))


def leaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that sees across the borders of packed rows."""
    right = attention.segment_attention

    def wrong(*given: Any, pieces: Any = None, **rest: Any) -> Any:
        return right(*given, pieces=None, **rest)

    monkeypatch.setattr(attention, "segment_attention", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leaks", [True, False])
@pytest.mark.parametrize("rows", [1, 12])
def test_packed_rows_that_see_each_other(
    monkeypatch: pytest.MonkeyPatch, run_config: Make, tokenizer: Any, dtype: torch.dtype, leaks: bool, rows: int
) -> None:
    """Found even with a single row, and with rows that are all the same; never claimed in a lower precision."""
    if leaks:
        leaking(monkeypatch)
    model = build_model(len(tokenizer), initializer_range=0.2).to(dtype).eval()
    _use_segment_attention(model)
    found = model_findings(model, run_config([chat_rows(1)[0]] * rows, data__held_out=0.0))
    attention.register()
    if leaks:
        the_one(found, "error", "packing", "packed rows change each other's log-probabilities", "data.packing=false")
    else:
        assert not found


@pytest.mark.parametrize("kind", ["eager", "convolution"])
def test_models_that_cannot_be_packed(run_config: Make, tokenizer: Any, kind: str) -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    if kind == "eager":
        model = build_model(len(tokenizer))
        model.set_attn_implementation("eager")
    else:
        shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
        model = Lfm2ForCausalLM(Lfm2Config(**shape, **heads))
        _use_segment_attention(model)
    the_one(
        model_findings(model, run_config()), "error", "packing", "cannot be cut into segments", "data.packing=false"
    )
    ready = Factory().prepare(run_config(data__packing=False))
    assert check_model(model, ready.data, ready.layout) == []


TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "London"}}}
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
VARIED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "plain": (chat_rows(12), {}),
    "several turns": ([turns(f"{i}?", "One.", "And?", "Two.", "And?", f"{i}.") for i in range(9)], {}),
    "white space": ([turns(f" {i}? \n", f"\n\n  It  is\t{i}. \n\n```\n  code\n```  \n") for i in range(9)], {}),
    "other scripts": ([turns(f"你好{i}?", f"很好。 ½ ﬁ Ａ {i} 👩‍👩‍👧 é ё") for i in range(9)], {}),
    "system and partly trained": (
        [{"messages": [SYSTEM, *turns(f"{i}?", "No.", "Sure?", "Yes.")["messages"]]} for i in range(9)],
        {"data__packing": False},
    ),
    "train: false": (
        [
            {
                "messages": [
                    {**m, "train": i != 1} for i, m in enumerate(turns(f"{n}?", "No.", "Sure?", "Yes.")["messages"])
                ]
            }
            for n in range(9)
        ],
        {},
    ),
    "tools and reasoning": (
        [
            {
                "tools": [TOOL],
                "messages": [
                    {"role": "user", "content": f"Weather on day {i}?"},
                    {"role": "assistant", "content": "", "reasoning_content": "I ask.", "tool_calls": [CALL]},
                    {"role": "tool", "content": "rain"},
                    {"role": "assistant", "content": f"It rains on day {i}.", "reasoning_content": "So it is."},
                ],
            }
            for i in range(9)
        ],
        {"model__chat_template": "tools.jinja"},
    ),
    "alpaca": ([{"instruction": f"Add {i}.", "input": "1", "output": f"{i + 1}"} for i in range(9)], {}),
    "text": (
        [{"text": f"Chapter {i}. It rains. " * 3} for i in range(9)],
        {"objective": "pretrain", "adapter": "full", "train__learning_rate": 1e-5},
    ),
    "pretraining on chats": (chat_rows(12), {"objective": "pretrain"}),
    "split": ([turns(f"{i}?", "On and on. " * 30) for i in range(9)], {"data__over_length": "split"}),
    "truncated": ([turns(f"{i}?", "On and on. " * 30) for i in range(9)], {"data__over_length": "truncate"}),
    "think tags": ([turns(f"{i}?", f"<think>\nWell.\n</think>\n\nIt is {i}.") for i in range(9)], {}),
}


@pytest.mark.parametrize("kind", VARIED)
def test_clean_runs(run_config: Make, tmp_path: Path, kind: str) -> None:
    rows, overrides = VARIED[kind]
    if "model__chat_template" in overrides:
        (tmp_path / "tools.jinja").write_text(TOOLS)
        overrides = {**overrides, "model__chat_template": str(tmp_path / "tools.jinja")}
    ready = check(run_config(rows, **overrides))
    assert problems(ready.report.findings) == [], json.dumps([str(f) for f in ready.report.findings])
    assert ready.data.train and ready.data.held_out
