"""One tuned model in four formats, each asked through its own `infer.py` where nothing else is installed.

    python -m benchmarks.certified [FOLDER] [--steps N] [--prompts N] [--tokens N]

The quick start's run (or some steps of it) is exported as adapter, merged, ONNX and GGUF in float32. Each `infer.py`
then answers the same held-out questions in a virtual environment that holds what its README says, and no Luthier. What
is made in FOLDER is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, print_table

ROOT = Path(__file__).parents[1]
QUESTIONS = ROOT / "examples" / "data" / "luthier_held_out.jsonl"
FORMATS = {
    "gguf": (["--precision", "F32"], "gguf", ["xllamacpp"]),
    "onnx": ([], "onnx", ["onnxruntime", "tokenizers", "jinja2"]),
    "merged": ([], "hf", ["torch", "transformers"]),
    "adapter": ([], "peft", ["torch", "transformers", "peft"]),
}
"""Options of the export, the name of the environment, and what is in it."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(said.folder or scratch).resolve()
        place.mkdir(parents=True, exist_ok=True)
        run = place / "run"
        if not (run / "metrics.json").exists():
            short = [] if said.steps is None else [f"train.max_steps={said.steps}"]
            luthier("train", "examples/quickstart.yaml", *short, f"output.dir={run}", "--restart")
        asked = [json.loads(line)["messages"][:-1] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
        lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in asked[: said.prompts])
        answers = {to: answered(place, to, lines, said.tokens) for to in FORMATS}
    report(answers)


def luthier(*words: str) -> None:
    """A command as users give it."""
    subprocess.run([sys.executable, "-m", "luthier", *words], check=True, cwd=ROOT, stdout=sys.stderr)


def answered(place: Path, to: str, lines: str, tokens: int) -> dict[str, object]:
    """The answers of one format, from its own environment."""
    options, environment, packages = FORMATS[to]
    kept = place / f"{to}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    if not (place / to).exists():
        luthier("export", str(place / "run"), "--to", to, "-o", str(place / to), *options)
    python = place / "environments" / environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    installed = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True))
    start = time.perf_counter()
    command = [str(python), "-I", str(place / to / "infer.py"), "--jsonl", "--max-new-tokens", str(tokens)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    texts = [json.loads(line)["answer"] for line in done.stdout.splitlines() if line.startswith("{")]
    measured = json.loads((place / to / "certificate.json").read_text(encoding="utf-8"))["measured"]
    size = sum(file.stat().st_size for file in (place / to).rglob("*") if file.is_file())
    answer = {"texts": texts, "seconds": time.perf_counter() - start, "packages": len(installed), "size": size}
    kept.write_text(json.dumps(answer | {"measured": measured}), encoding="utf-8")
    return answer | {"measured": measured}


def report(answers: dict[str, dict[str, object]]) -> None:
    first = next(iter(answers.values()))["texts"]
    assert isinstance(first, list)
    rows = []
    for to, answer in answers.items():
        texts, measured = answer["texts"], answer["measured"]
        assert isinstance(texts, list) and isinstance(measured, dict) and isinstance(answer["size"], int)
        same = sum(a == b for a, b in zip(texts, first, strict=True))
        difference = f"{measured['log_probability']:.1e}"
        rows.append((to, f"{same} of {len(first)}", difference, answer["packages"], f"{answer['size'] / 1e6:.0f} MB"))
    print(machine())
    print_table(("format", "same text as the first", "largest difference (nats)", "packages", "size"), rows)


if __name__ == "__main__":
    main()
