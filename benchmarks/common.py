"""What the benchmarks share: the machine's name, public rows, the real model, and tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.system.home import home

MODEL = "smollm2-135m-instruct"
SHIPPED = Path(__file__).parents[1] / "examples" / "data" / "luthier_qa.jsonl"


def machine() -> str:
    """One line that says where and when a number was measured."""
    name = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    import torch

    return (
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} x {name}, {torch.backends.cpu.get_cpu_capability()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def alpaca_rows() -> Path:
    """999 English instruction rows from the source package of llamafactory 0.9.5, downloaded once."""
    target = _cache("alpaca_en_demo.json")
    if not target.exists():
        with _downloaded("llamafactory==0.9.5", "--no-binary=:all:") as package, tarfile.open(package) as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith("data/alpaca_en_demo.json"))
            content = archive.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())
    return target


def chatterbot_rows(*languages: str) -> Path:
    """Questions with answers from chatterbot-corpus 1.3.3 (897 English ones), each pair once, in a shuffled order."""
    languages = languages or ("english",)
    target = _cache("chatterbot_en.jsonl" if languages == ("english",) else f"chatterbot_{'_'.join(languages)}.jsonl")
    if not target.exists():
        import yaml

        rows: dict[tuple[str, str], None] = {}
        with _downloaded("chatterbot-corpus==1.3.3") as package, zipfile.ZipFile(package) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".yml") and n.split("/")[-2] in languages):
                for said in yaml.safe_load(archive.read(name))["conversations"]:
                    asked, *answers = (str(text).strip() for text in said if text) if isinstance(said, list) else ("",)
                    if answers and asked != answers[0]:
                        rows[asked, answers[0]] = None
        shuffled = random.Random(0).sample([*rows], len(rows))
        lines = [json.dumps({"prompt": asked, "completion": answer}) for asked, answer in shuffled]
        target.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return target


def _cache(name: str) -> Path:
    folder = home() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def package_files(requirement: str, pattern: str, *options: str) -> Path:
    """A folder with the files of a package whose names match, downloaded once."""
    folder = _cache(re.sub(r"\W+", "-", f"{requirement} {pattern}"))
    if not folder.exists():
        with _downloaded(requirement, *options) as package, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            shutil.unpack_archive(package, scratch, "zip" if package.suffix == ".whl" else None)
            for file in [file for file in Path(scratch).rglob("*") if file.is_file()]:
                if not re.search(pattern, file.relative_to(scratch).as_posix()):
                    file.unlink()
            shutil.copytree(scratch, folder)
    return folder


@contextmanager
def _downloaded(requirement: str, *options: str) -> Iterator[Path]:
    """A package from the index in use, for as long as it is read."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", scratch]
        subprocess.run([*command, requirement], check=True)
        yield next(Path(scratch).iterdir())


def in_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` in a process of its own; its last line is JSON.

    With LUTHIER_MEASURED=FILE it is kept there, and not measured again: a long benchmark goes on where it was stopped.
    """
    kept = Path(os.environ["LUTHIER_MEASURED"]) if "LUTHIER_MEASURED" in os.environ else None
    if kept is not None and kept.exists():
        for line in map(json.loads, kept.read_text(encoding="utf-8").splitlines()):
            if line["command"] == [module, *arguments]:
                return dict(line["answer"])
    result = subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    if kept is not None:
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"command": [module, *arguments], "at": machine(), "answer": answer}) + "\n")
    return answer


def write_rows(file: Path, rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as JSON Lines; returns the path."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def tuned(data: Mapping[str, object], *, steps: int, batch_size: int, seed: int) -> dict[str, Any]:
    """SmolLM2 tuned by LoRA with the defaults; the held-out loss, and how many rows there were to train on."""
    from luthier.config import parse_config
    from luthier.factory import Factory

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            {
                "model": MODEL,
                "data": {"over_length": "truncate", "cache": False, **data},
                "adapter": "lora",
                "train": {
                    "batch_size": batch_size, "epochs": 1000, "max_steps": steps, "evaluate_every": None,
                    "save_every": None, "seed": seed,
                },
                "output": {"dir": folder, "final": "last"},
            }
        )  # fmt: skip
        _, metrics = Factory().fine_tune(config)
        ledger = json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))
        rows = sum(row.get("side") == "train" and row["outcome"] != "dropped" for row in ledger["rows"])
        return {"loss": metrics["loss"], "rows": rows, "refused": ledger.get("refused", {})}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
