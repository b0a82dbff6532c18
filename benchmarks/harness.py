"""Is `luthier evaluate` what others measure? `python -m benchmarks.harness [--limit N]`.

Multiple choice: the 282 MMLU development questions that ship in the lm-eval wheel, by letter (as MMLU is measured) and
by text (as ARC is), each with SmolLM2 by `luthier evaluate` and by lm-evaluation-harness: acc and acc_norm question by
question, and the log-likelihood of every option; the options on which they are most apart in float64 too. BLEU and
chrF: alpaca answers that were spoiled, against sacrebleu's own command. ROUGE: the same answers against the package
rouge-score. The command fails where anything differs: a verdict, one of Luthier's log-likelihoods from float64 by more
than 1e-4, a score by more than 1e-9 (the commands print two digits, or four).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import MODEL, alpaca_rows, machine, print_table, write_rows

CLOSE = 1e-4
WORST = 12
"""Options that are looked at in float64."""
OPTION = re.compile(r"\(([A-E])\)\s*")
WAYS = {
    "letter": {"doc_to_text": "{{lettered}}\nAnswer:", "doc_to_choice": "{{letters}}"},
    "text": {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"},
}


def mmlu() -> Iterator[dict[str, Any]]:
    """The questions of the wheel's solved examples, with their options and the number of the right one."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None, "pip install lm-eval"
    folder = Path(spec.origin).parent / "tasks" / "mmlu" / "flan_cot_fewshot"
    for file in sorted(folder.glob("mmlu_*.yaml")):
        text = file.read_text(encoding="utf-8").replace("!function", "")
        told = yaml.safe_load(text)
        for sample in told["fewshot_config"]["samples"]:
            parts = OPTION.split(sample["question"])
            right = re.findall(r"answer is \(?([A-E])\)?", sample["target"])[-1]
            letters = next([*those] for those in ("ABCDE", "ABCD") if parts[-2 * len(those) :: 2] == [*those])
            start = len(parts) - 2 * len(letters)
            question, options = "".join(parts[:start]).strip(), [part.strip() for part in parts[start + 1 :: 2]]
            lettered = "\n".join([question, *(f"{a}. {b}" for a, b in zip(letters, options, strict=True))])
            yield {
                "question": question, "choices": options, "answer": letters.index(right),
                "subject": told["dataset_name"], "lettered": lettered, "letters": letters,
            }  # fmt: skip


def by_luthier(rows: str, way: str) -> list[dict[str, Any]]:
    """What `luthier evaluate` writes of each question."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.jsonl"
        settings = [f"choice.by={way}", "choice.prompt=plain"]
        command = [sys.executable, "-m", "luthier", "evaluate", MODEL, "--data", rows, "--metrics", "", "-o", str(out)]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, check=True, capture_output=True)
        found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        return [record for record in found if record["kind"] == "choice"]


def by_harness(rows: str, way: str) -> list[dict[str, Any]]:
    """What lm-evaluation-harness finds, from a task of one's own on the same file."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from luthier.models.find import find

    with tempfile.TemporaryDirectory() as folder:
        task = {
            "task": f"mmlu_{way}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_target": "answer", **WAYS[way],
            "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
        }  # fmt: skip
        (Path(folder) / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        model = HFLM(pretrained=find(MODEL).location, device="cpu", dtype="float32", batch_size=4)
        told = simple_evaluate(model, tasks=[task["task"]], task_manager=TaskManager(include_path=folder))
    samples = sorted(told["samples"][task["task"]], key=lambda sample: sample["doc_id"])
    return [
        {"acc": one["acc"], "acc_norm": one["acc_norm"], "logprobs": [float(r[0]) for r in one["filtered_resps"]]}
        for one in samples
    ]


def in_float64(options: list[tuple[dict[str, Any], int]], way: str) -> list[float]:
    """The log-likelihood of some options after their questions, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.models.find import find

    place = find(MODEL).location
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64).eval()
    sums = []
    for row, number in options:
        asked = f"{row['lettered']}\nAnswer:" if way == "letter" else f"Question: {row['question']}\nAnswer:"
        start = len(tokenizer(asked)["input_ids"])
        ids = torch.tensor(
            tokenizer(f"{asked} {row['letters' if way == 'letter' else 'choices'][number]}")["input_ids"]
        )
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        sums.append(float(logprobs[range(start - 1, len(ids) - 1), ids[start:]].sum()))
    return sums


def choices(limit: int | None) -> list[list[object]]:
    """A line a way: how many questions, both accuracies by both, and how far log-likelihoods are apart at most."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        rows = list(mmlu())[:limit]
        file = write_rows(Path(folder) / "mmlu.jsonl", rows)
        for way in WAYS:
            ours, theirs = by_luthier(file, way), by_harness(file, way)
            pairs = list(zip(ours, theirs, strict=True))
            found: list[tuple[float, float, dict[str, Any], int]] = [
                (a, b, row, n)
                for row, (one, two) in zip(rows, pairs, strict=True)
                for n, (a, b) in enumerate(zip(one["more"]["logprobs"], two["logprobs"], strict=True))
            ]
            found.sort(key=lambda option: -abs(option[0] - option[1]))
            exact = in_float64([(row, n) for _, _, row, n in found[:WORST]], way)
            worst = [(abs(a - x), abs(b - x)) for (a, b, _, _), x in zip(found[:WORST], exact, strict=True)]
            off = [max(column) for column in zip(*worst, strict=True)]
            differ = sum(one["scores"][name] != two[name] for one, two in pairs for name in ("acc", "acc_norm"))
            for name in ("acc", "acc_norm"):
                values = [sum(scores) / len(rows) for scores in (
                    [one["scores"][name] for one in ours], [two[name] for two in theirs])]  # fmt: skip
                lines.append(
                    [f"{name} by {way}", len(rows), *(f"{v:.4f}" for v in values), differ, *(f"{v:.1e}" for v in off)]
                )
            assert len(rows) == 282 or limit, len(rows)
            assert not differ and off[0] <= CLOSE, (differ, off)
    return lines


def answers() -> tuple[list[str], list[str]]:
    """300 answers without line breaks, and the same with words left out, doubled and exchanged."""
    chance, right = random.Random(0), list[str]()
    for row in json.loads(alpaca_rows().read_text(encoding="utf-8")):
        if row["output"].strip():
            right.append(" ".join(row["output"].split()))
    said = []
    for text in right[:300]:
        words = [word for word in text.split() for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 1, 2)))]
        for _ in range(len(words) // 8):
            place = chance.randrange(len(words))
            words[place : place + 2] = words[place : place + 2][::-1]
        said.append(" ".join(words))
    return said, right[:300]


def metrics() -> list[list[object]]:
    """A line a metric: what Luthier says, and what the other one does."""
    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    from luthier.data.conversation import Conversation
    from luthier.evaluate.metrics import Bleu, ChrF, Rouge, total_of
    from luthier.evaluate.question import Question

    said, right = answers()
    asked = [Question(Conversation(()), reference) for reference in right]
    lines: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("right", "said")]
        for file, texts in zip(files, (right, said), strict=True):
            file.write_text("\n".join(texts) + "\n", encoding="utf-8")
        for metric in (Bleu(), ChrF()):
            counts = [metric.statistics([a], q)[metric.type] for a, q in zip(said, asked, strict=True)]
            ours = 100 * float(total_of(metric.type)(np.asarray(counts).sum(0)))
            command = [sys.executable, "-m", "sacrebleu", str(files[0]), "-i", str(files[1]), "-m", metric.type]
            told = subprocess.run([*command, "-b", "-w", "10"], check=True, capture_output=True, text=True).stdout
            assert abs(ours - float(told)) < 1e-9, (metric.type, ours, told)
            lines.append([metric.type, len(said), f"{ours:.4f}", f"{float(told):.4f}", "sacrebleu's command"])
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(r, s) for s, r in zip(said, right, strict=True)]
    found = [Rouge().statistics([a], q) for a, q in zip(said, asked, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        apart = max(abs(ours[name][0] - theirs[name].fmeasure) for ours, theirs in zip(found, scores, strict=True))
        assert apart < 1e-9, (name, apart)
        both = [sum(side) / len(said) for side in ([o[name][0] for o in found], [t[name].fmeasure for t in scores])]
        lines.append([name, len(said), *(f"{100 * value:.4f}" for value in both), "rouge-score, answer by answer"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="questions, for a quick look")
    given = parser.parse_args()
    texts, lines = metrics(), choices(given.limit)
    print(f"{machine()}; {MODEL}\n")
    columns = ["choice", "questions", "luthier", "lm-eval", "verdicts that differ", "from float64", "lm-eval from it"]
    print_table(columns, lines)
    print()
    print_table(["metric", "answers", "luthier", "other", "which"], texts)


if __name__ == "__main__":
    main()
