"""What the registry promises: `python -m benchmarks.registry [--only versions|kills|list|reproduce] [--steps 20]`.

versions: 50 trainings of a tiny model, by four processes that all begin at once on no index, each run registered.
kills: a registration, killed with SIGKILL at 40 moments spread over the time that it takes.
list: an index of 10,000 versions, asked by the command and from within a process.
reproduce: the quick start, registered, made again; and once more behind one changed row.

The command fails where a promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.common import MODEL, SHIPPED, machine, print_table
from luthier.models.find import find
from luthier.registry.index import Registry
from luthier.registry.origin import say_origin

PROCESSES, TRAININGS, KILLS, VERSIONS = 4, 50, 40, 10_000
LIST_SECONDS = 1.0


def tiny(folder: Path) -> None:
    """A random model of two layers with the tokenizer of the real one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(find(MODEL).location)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def trainings(place: Path, first: int) -> None:
    """This process's share of the trainings, each into a folder of its own."""
    from luthier.config import parse_config
    from luthier.factory import Factory

    for number in range(first, TRAININGS, PROCESSES):
        tree = {
            "model": str(place / "tiny"),
            "data": {"train": [{"path": str(SHIPPED), "limit": 12}], "cache": False},
            "train": {"max_steps": 1, "batch_size": 4, "seed": number},
            "output": {"dir": str(place / "runs" / str(number)), "register_as": "tiny"},
        }
        Factory().fine_tune(parse_config(tree))


def versions(place: Path) -> list[tuple[object, ...]]:
    """Fifty trainings by four processes."""
    tiny(place / "tiny")
    command = [sys.executable, "-m", "benchmarks.registry", "--place", str(place), "--share"]
    running = [subprocess.Popen([*command, str(share)], stdout=subprocess.DEVNULL) for share in range(PROCESSES)]
    failed = sum(process.wait() != 0 for process in running)
    registry = Registry(place / "home" / "registry")
    found = registry.versions("tiny")
    assert not failed and sorted(one.number for one in found) == list(range(1, TRAININGS + 1))
    assert len({one.run for one in found}) == TRAININGS == len(registry.runs()), "none lost, none doubled"
    assert not any(registry.damaged(one) for one in found)
    named = sum(len(one.files) for one in found)
    kept = len(list((registry.root / "files").iterdir()))
    return [("versions of 50 trainings by 4 processes", len(found)), ("files of these versions", named),
            ("files on the disk", kept)]  # fmt: skip


def kills(place: Path) -> list[tuple[object, ...]]:
    """Registrations that are killed; what is there afterwards is whole."""
    export = place / "export"
    export.mkdir()
    (export / "model.safetensors").write_bytes(os.urandom(2**26))
    say_origin(export, "exported", [MODEL])
    registry = Registry(place / "home" / "registry")
    code = (
        "import sys, pathlib; from luthier.registry.index import Registry\n"
        "registry = Registry(pathlib.Path(sys.argv[1])); print('begins', flush=True)\n"
        "registry.register(sys.argv[2], 'killed')"
    )
    command = [sys.executable, "-c", code, str(registry.root), str(export)]
    started, took = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as whole:
        assert whole.stdout is not None and whole.stdout.readline()
        started = time.monotonic()
        whole.wait()
        took = time.monotonic() - started
    through = 0
    for kill in range(KILLS):
        shutil.rmtree(registry.root / "files")  # so that all is copied again
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(took * kill / KILLS)
            process.send_signal(signal.SIGKILL)
        found = registry.versions("killed")
        through += len(found) - 1
        assert not any(registry.damaged(one) for one in found), "a version is whole, or it is not there"
        for one in found[:-1]:
            registry.delete(one.uri)
        registry.gc()
        folders = {path.name for path in (registry.root / "versions" / "killed").iterdir()}
        assert folders == {"1"} and not list(registry.root.glob(".incomplete-*")), "nothing is left"
    return [("kills during a registration", KILLS), ("of them, behind its end", through), ("left half-done", 0)]


def many(place: Path) -> list[tuple[object, ...]]:
    """Ten thousand versions."""
    small = place / "small"
    small.mkdir()
    (small / "model.safetensors").write_bytes(b"weights")
    say_origin(small, "exported", [MODEL])
    registry = Registry(place / "home" / "registry")
    first = registry.register(str(small), "many")
    with registry._open() as index:
        lines = (
            ("many", number, "", "", json.dumps(asdict(replace(first, number=number))))
            for number in range(2, VERSIONS + 1)
        )
        index.executemany("INSERT INTO version VALUES (?, ?, ?, ?, ?)", lines)
    told = []
    for name, asked in (
        ("newest 20 of 10,000", lambda: registry.versions("many", limit=20)),
        ("all 10,000", lambda: registry.versions("many")),
        ("one by its number", lambda: registry.version("many/5000")),
    ):
        times = []
        for _ in range(5):
            started = time.monotonic()
            asked()
            times.append(time.monotonic() - started)
        told.append((f"{name}, seconds", min(times)))
        assert min(times) < LIST_SECONDS
    least = {name: min(_seconds(*words) for _ in range(5)) for name, words in COMMANDS.items()}
    assert least["list"] - least["help"] < LIST_SECONDS, least
    return [*told, ("luthier models list many, seconds, least of 5", least["list"]),
            ("luthier --help, seconds, least of 5", least["help"])]  # fmt: skip


COMMANDS = {"list": ("models", "list", "many"), "help": ("--help",)}
"""What a command takes that looks nothing up is what Python and the libraries of all commands take."""


def _seconds(*words: str) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "luthier", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def reproduce(place: Path, steps: int | None = None) -> list[tuple[object, ...]]:
    """The quick start."""
    rows = place / "rows.jsonl"
    shutil.copy(SHIPPED, rows)
    luthier = [sys.executable, "-m", "luthier"]
    source = json.dumps([str(rows)])
    changes = [f"model={find(MODEL).location}", f"data.train={source}", f"output.dir={place / 'quick'}"]
    changes += [f"train.max_steps={steps}"] if steps else []
    quick = str(SHIPPED.parents[1] / "quickstart.yaml")
    subprocess.run(
        [*luthier, "train", quick, *changes, "output.register_as=quick"], check=True, stdout=subprocess.DEVNULL
    )
    again = [*luthier, "reproduce", "models:/quick/1"]
    same = subprocess.run(again, capture_output=True, text=True, check=False)
    assert same.returncode == 0, same.stderr
    lines = rows.read_text(encoding="utf-8").splitlines()
    lines[6] = lines[6][:-4] + "!" + lines[6][-4:]  # at the end of what the assistant says
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    refused = subprocess.run(again, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and f"{rows}:7 says something else" in refused.stderr, refused.stderr
    verdict = same.stdout.strip().splitlines()[-1]
    return [
        ("quick start, made again", verdict),
        ("with row 7 changed", refused.stderr.strip().replace(str(place), "")),
    ]


PARTS = {"versions": versions, "kills": kills, "list": many, "reproduce": reproduce}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--steps", type=int, help="of the quick start, which has 260")
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.share is not None:
        trainings(Path(asked.place), asked.share)
        return
    found: list[tuple[object, ...]] = []
    for name in [asked.only] if asked.only else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            location = find(MODEL).location  # of the home that is left now
            home = Path(folder) / "home"
            (home / "models").mkdir(parents=True)
            (home / "models" / MODEL).symlink_to(location)
            before, os.environ["LUTHIER_HOME"] = os.environ.get("LUTHIER_HOME", ""), str(home)
            found += reproduce(Path(folder), asked.steps) if name == "reproduce" else PARTS[name](Path(folder))
            os.environ["LUTHIER_HOME"] = before
    print(machine(), end="\n\n")
    print_table(["", ""], found)


if __name__ == "__main__":
    main()
