"""What data costs: `python -m benchmarks.scale [--rows 10000000] [--only inspect,clean,prepare]`.

A file of made rows (English words, 36 a row) is written, and each job runs on it in a process of its own: rows a
second, and the most memory that is held beyond what the process holds before its first row. The command fails where
that is more than 400 MB. `clean` is `luthier data clean` with repair, secrets, personal, quality and duplicates;
`prepare` is what a run does before it loads the model: reading, splitting, rendering for SmolLM2, the check, an epoch's
order.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import MODEL, in_process, machine, print_table

MOST_BYTES = 400_000_000
CLEANERS = "repair,secrets,personal,quality,duplicates"


def write(file: Path, rows: int) -> None:
    """Rows of words drawn from a list, each with a number, so that none is said twice."""
    chance = random.Random(0)
    lines = Path(__file__).parent / "words.txt"
    words = lines.read_text(encoding="utf-8").split()
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            asked, said = " ".join(chance.choices(words, k=12)), " ".join(chance.choices(words, k=24))
            out.write(json.dumps({"prompt": f"{number}: {asked}?", "completion": f"{said}."}) + "\n")


def one(job: str, file: str, rows: int) -> dict[str, Any]:
    """Do a job on the first rows once, so that everything is loaded, and on all."""
    from luthier.system.hardware import held_memory_bytes, peak_memory_bytes, restart_peak_memory

    work = {"inspect": _inspect, "clean": _clean, "prepare": _prepare}[job]
    work(file, 200)
    before = held_memory_bytes()
    restart_peak_memory()
    started = time.perf_counter()
    work(file, rows)
    return {"rate": rows / (time.perf_counter() - started), "bytes": peak_memory_bytes() - before}


def _inspect(file: str, rows: int) -> None:
    from luthier.config import SourceConfig
    from luthier.data.inspect import inspect

    assert inspect(SourceConfig(path=file, limit=rows), file).usable == rows


def _clean(file: str, rows: int) -> None:
    from luthier.cli.clean import chosen_cleaners
    from luthier.config import SourceConfig
    from luthier.data.clean.run import clean_source

    with tempfile.TemporaryDirectory(dir=Path(file).parent) as folder:
        out = f"{folder}/out"
        tally = clean_source(SourceConfig(path=file, limit=rows), chosen_cleaners(CLEANERS, ()), out)
        assert tally.read == rows


def _prepare(file: str, rows: int) -> None:
    from luthier.config import parse_config
    from luthier.data.loader import Loader
    from luthier.factory import Factory

    source = {"path": file, "limit": rows}
    config = parse_config({"model": MODEL, "data": {"train": [source], "cache": False}, "output": f"{file}.run"})
    ready = Factory().prepare(config)
    ready.report.require_no_errors()
    next(Loader(ready.data.train, batch_size=16, seed=0, layout=ready.layout).steps())
    assert len(ready.data.train) + len(ready.data.held_out) == rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", default="inspect,clean,prepare")
    parser.add_argument("--folder", help="where the file is written, which takes 230 bytes a row")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        job, file = given.one
        print(json.dumps(one(job, file, given.rows)))
        return
    table, failed = [], []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        file = Path(folder) / "rows.jsonl"
        write(file, given.rows)
        for job in given.only.split(","):
            found = in_process("benchmarks.scale", "--rows", str(given.rows), "--one", job, str(file))
            table.append([job, f"{found['rate']:,.0f}", f"{found['bytes'] / 1e6:,.0f} MB"])
            print(table[-1], file=sys.stderr, flush=True)
            failed += [job] if found["bytes"] > MOST_BYTES else []
    print(f"\n{machine()}; {given.rows:,} rows\n")
    print_table(["job", "rows a second", "memory beyond the start"], table)
    if failed:
        raise SystemExit(f"more than {MOST_BYTES / 1e6:.0f} MB: {', '.join(failed)}")


if __name__ == "__main__":
    main()
