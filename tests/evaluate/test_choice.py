"""Multiple choice: likelihoods against a plain forward pass, few solved questions, letters that are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config import EvaluateConfig, ModelConfig, parse_section
from luthier.data.conversation import Choices, Origin, Row
from luthier.data.formats.base import read
from luthier.errors import UserError
from luthier.evaluate.choice import MultipleChoice, written
from luthier.evaluate.measure import Measured, measure
from luthier.models.load import ModelLoader

Write = Callable[..., Path]
ROWS: list[dict[str, Any]] = [
    {"question": f"What is {i} and {i}?", "answer": i % 2, "subject": ("sums", "weather_report")[i % 2],
     "choices": ["nothing at all", str(2 * i), "the capital", "it rains."][: 2 + i % 3]}
    for i in range(8)
]  # fmt: skip


def measured(model: Path, file: Path, **choice: Any) -> Measured:
    tree = {"kinds": [{"type": "choice", **choice}], "max_new_tokens": 3}
    config = parse_section(EvaluateConfig, tree, source="options")
    (found,) = measure(ModelLoader(), ModelConfig(path=str(model)), [str(file)], config)
    return found


def content(row: dict[str, Any]) -> Choices:
    found = read("choice", Row(Origin("x", 1), row))
    assert isinstance(found, Choices)
    return found


@pytest.mark.parametrize("prompt", ["plain", "chat"])
@pytest.mark.parametrize("by", ["letter", "text"])
def test_likelihoods_are_those_of_the_model(tiny: Path, write_rows: Write, by: str, prompt: str) -> None:
    """Each option alone behind its question, in a forward pass of its own, written as lm-evaluation-harness does."""
    loader, config = ModelLoader(), ModelConfig(path=str(tiny))
    model, tokenizer = loader.load(config).eval(), loader.renderer(config).tokenizer
    found = measured(tiny, write_rows(ROWS), by=by, prompt=prompt)
    for row, record in zip(ROWS, found.records, strict=True):
        letters = "ABCD"[: len(row["choices"])]
        lettered = "\n".join([row["question"], *(f"{a}. {b}" for a, b in zip(letters, row["choices"], strict=True))])
        asked = {
            ("letter", "plain"): f"{lettered}\nAnswer:",
            ("text", "plain"): f"Question: {row['question']}\nAnswer:",
            ("letter", "chat"): f"<|im_start|>user\n{lettered}<|im_end|>\n<|im_start|>assistant\n",
            ("text", "chat"): f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n",
        }[by, prompt]
        likely = []
        options = list(letters) if by == "letter" else row["choices"]
        for option in options:
            head = tokenizer(asked, add_special_tokens=False)["input_ids"]
            rest = tokenizer((" " if prompt == "plain" else "") + option, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                told = model(torch.tensor([head + rest]), use_cache=False).logits[0].log_softmax(-1)
            likely.append(sum(float(told[len(head) - 1 + i, token]) for i, token in enumerate(rest)))
        assert record.more["logprobs"] == pytest.approx(likely, abs=1e-4)
        best = likely.index(max(likely))
        per = [one / len(option) for one, option in zip(likely, options, strict=True)]
        assert record.scores == {
            "acc": float(best == row["answer"]),
            "acc_norm": float(per.index(max(per)) == row["answer"]),
        }
        assert (record.answer, record.reference) == (options[best], options[row["answer"]])


def test_solved_questions_stand_before(write_rows: Write) -> None:
    """Those of its subject first, never itself; in front of all what is to be done."""
    file = str(write_rows(ROWS))
    kind = MultipleChoice(shots=2, shots_from=file, instruction="About {subject}.")
    asked = content(ROWS[1])
    assert kind._plain(asked) == (
        "About weather report.\n\n"
        "What is 3 and 3?\nA. nothing at all\nB. 6\nAnswer: B\n\n"
        "What is 5 and 5?\nA. nothing at all\nB. 10\nC. the capital\nD. it rains.\nAnswer: B\n\n"
        "What is 1 and 1?\nA. nothing at all\nB. 2\nC. the capital\nAnswer:"
    )
    turns = kind._chat(asked).messages
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]
    assert turns[0].content == "About weather report." and turns[2].content == "B"
    text = MultipleChoice(by="text", shots=1, shots_from=file)
    assert text._plain(asked) == "Question: What is 3 and 3?\nAnswer: 6\n\nQuestion: What is 1 and 1?\nAnswer:"
    with pytest.raises(UserError, match=r"shots: 9, and .* has 3 for 'What is 1 and 1"):
        MultipleChoice(shots=9, shots_from=file)._plain(asked)
    with pytest.raises(UserError, match="shots_from=FILE"):
        MultipleChoice(shots=1).portions([], None)  # type: ignore[arg-type]


def test_letters_that_are_written(tiny: Path, write_rows: Write) -> None:
    found = measured(tiny, write_rows(ROWS), by="generated")
    assert set(found.metrics) == {"acc", "no_letter"} and len(found.records) == len(ROWS)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"), ("B. 4", "B"), ("(b)", ""), ("**B**", "B"), ("The answer is (B).", "B"), ("answer: b", "B"),
        ("A good question! The answer is C", "C"), ("答案是B。", "B"), ("选C", "C"), ("正确答案：D", "D"),
        ("It's D", "D"), ("I'd say that CAB is right", ""), ("Both", ""), ("", ""), ("E", ""), ("E or A", "A"),
    ],
)  # fmt: skip
def test_the_letter_of_an_answer(said: str, letter: str) -> None:
    assert written(said, 4) == letter


def test_too_long_with_solved_questions(tiny: Path, tokenizer: Any, write_rows: Write) -> None:
    """The question itself fits; what stands before it is too much, and that is said of the row."""
    rows = [ROWS[0], {**ROWS[2], "question": "Long? " * (450 * 20 // len(tokenizer("Long? " * 20)["input_ids"]))}]
    found = measured(tiny, write_rows(rows), shots=1, shots_from=str(write_rows(rows, "shots.jsonl")), prompt="plain")
    assert found.dropped[0].startswith(f"{found.file}:1: choice: ") and "the model knows 512" in found.dropped[0]


def test_mmlu_needs_no_header(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mmlu.csv").write_text('"What, then?",0,4,0,6,B\nAnd now?,a,b,c,d,A\n')
    (tmp_path / "cmmlu.csv").write_text(",Question,A,B,C,D,Answer\n0,天空?,红,蓝,绿,黄,B\n1,草?,红,蓝,绿,黄,C\n")
    (tmp_path / "ceval.csv").write_text("id,question,A,B,C,D,answer,explanation\n0,草?,红,蓝,绿,黄,C,草是绿的\n")
    for name, right in (("mmlu", ["B", "A"]), ("cmmlu", ["B", "C"]), ("ceval", ["C"])):
        assert [r.reference for r in measured(tiny, tmp_path / f"{name}.csv").records] == right
