"""How fast data goes through: `python -m benchmarks.throughput [--rows 20000] [--only read,render,...]`.

Made rows (English words, 36 a row; every tenth says what an earlier one says), the same for both contenders of a job,
which work by turns in one process: rows a second at the median of three times, and ratios at the median of three pairs,
of time and of processor time, which depends little on other programs of the machine. Above 1: Luthier is faster. What
differs:

* `read`: files as `luthier data inspect` reads them, each row with its line and strict, against `datasets`, streaming.
* `render`: ids with an exact mask for SmolLM2, against `datasets.map` of `apply_chat_template`, as TRL calls it, which
  makes ids alone.
* `near-duplicates` (those rows with a word more): candidates by MinHash and then their exact likeness, on disk where
  they are many, against datasketch on the same shingles, with as many permutations and the same threshold, in memory
  and without a second look.
* `duplicates`: but for case, spaces and punctuation, on disk where they are many, against a set of digests in memory.
* `repair`: the cleaner of that name, against `datasets.map` of ftfy's `fix_text`, which is a part of it.
* `clean`: the usual cleaners of `luthier data clean` and two workers, against the same and none.

The command fails where a job finds fewer of the rows that say what an earlier one says than there are, or is slower
beside its peer than is promised.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import scale
from benchmarks.common import MODEL, in_process, machine, print_table, write_rows
from luthier.data.clean.pipeline import Cleaning, Outcome
from luthier.data.conversation import Conversation, Message, Origin, Row, Text

Work = Callable[[], int]
"""Goes through all rows; how many it found: rows, or such as say what an earlier one says."""
BATCH, REPEATS, WARM_ROWS, THRESHOLD = 256, 3, 200, 0.8


@dataclass(frozen=True, slots=True)
class Job:
    """What both contenders do: Luthier, and its peer of this name."""

    peer: str
    make: Callable[[Path], tuple[Work, Work]]
    """Both, on the rows of a folder."""
    finds: bool = False
    """Whether they count the rows that say what an earlier one says, not all rows."""
    least: float = 0.0
    """The ratio of processor time that is promised."""


def write(folder: Path, rows: int) -> None:
    """The same rows in each kind of file."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir()
    scale.write(folder / "rows.jsonl", rows)
    made, chance = list(values(folder)), random.Random(0)
    for place in range(9, rows, 10):
        earlier = made[chance.randrange(place)]
        made[place] = {**earlier, "completion": f"{earlier['completion']} "}
    write_rows(folder / "rows.jsonl", made)
    table = pa.Table.from_pylist(made)
    pa.csv.write_csv(table, str(folder / "rows.csv"))
    pa.parquet.write_table(table, str(folder / "rows.parquet"))


def values(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "rows.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def texts(folder: Path) -> list[str]:
    return [f"{row['prompt']}\n{row['completion']}" for row in values(folder)]


def read(kind: str, folder: Path) -> tuple[Work, Work]:
    import datasets

    from luthier.config import SourceConfig
    from luthier.data.recognise import recognised

    file = str(folder / f"rows.{'jsonl' if kind == 'json' else kind}")

    def ours() -> int:
        return sum(1 for _ in recognised(SourceConfig(path=file), file).rows)

    def peer() -> int:
        return sum(1 for _ in datasets.load_dataset(kind, data_files=file, split="train", streaming=True))

    return ours, peer


def render(folder: Path) -> tuple[Work, Work]:
    import datasets

    from luthier.config import ModelConfig
    from luthier.models.load import ModelLoader

    datasets.disable_progress_bars()
    renderer = ModelLoader().renderer(ModelConfig(path=MODEL))
    turns = [(("user", row["prompt"]), ("assistant", row["completion"])) for row in values(folder)]
    talks = [Conversation(tuple(Message(role=role, content=said) for role, said in talk)) for talk in turns]
    told = [{"messages": [{"role": role, "content": said} for role, said in talk]} for talk in turns]
    rows = datasets.Dataset.from_list(told)

    def ids(row: dict[str, Any]) -> dict[str, Any]:
        return {"ids": renderer.tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]}

    def peer() -> int:
        return len(rows.map(ids, keep_in_memory=True, load_from_cache_file=False))

    return lambda: sum(len(renderer.conversation(talk)) for talk in talks), peer


def near(folder: Path) -> tuple[Work, Work]:
    from datasketch import MinHash, MinHashLSH

    from luthier.data.clean.duplicates import plain
    from luthier.data.clean.near import SHINGLE, Index

    said = [f"Indeed, {text}" if number % 10 == 9 else text for number, text in enumerate(texts(folder))]

    def ours() -> int:
        index, found = Index(THRESHOLD), 0
        for start in range(0, len(said), BATCH):
            for number, sketch in enumerate(index.sketches(said[start : start + BATCH]), start):
                if index.match(sketch)[1] is None:
                    index.add(str(number), sketch)
                else:
                    found += 1
        return found

    def peer() -> int:
        index, found = MinHashLSH(threshold=THRESHOLD, num_perm=128), 0
        for number, text in enumerate(map(plain, said)):
            sketch = MinHash(num_perm=128)
            sketch.update_batch([piece.encode() for piece in {text[i : i + SHINGLE] for i in range(len(text) - 4)}])
            if index.query(sketch):
                found += 1
            else:
                index.insert(str(number), sketch)
        return found

    return ours, peer


def duplicates(folder: Path) -> tuple[Work, Work]:
    from luthier.data.clean.base import Said
    from luthier.data.clean.duplicates import Duplicates

    said = [Said(str(number), Text(text), text, "", text) for number, text in enumerate(texts(folder))]

    def ours() -> int:
        cleaner, found = Duplicates().build(), 0
        for start in range(0, len(said), BATCH):
            batch = said[start : start + BATCH]
            found += sum(map(bool, map(cleaner.judge, batch, cleaner.look(batch))))
        return found

    def peer() -> int:
        seen = {hashlib.blake2b(row.text.strip().encode(), digest_size=8).digest() for row in said}
        return len(said) - len(seen)

    return ours, peer


def repair(folder: Path) -> tuple[Work, Work]:
    import datasets
    import ftfy

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list(list(values(folder)))

    def fixed(row: dict[str, str]) -> dict[str, str]:
        return {key: ftfy.fix_text(text) for key, text in row.items()}

    def peer() -> int:
        return len(rows.map(fixed, keep_in_memory=True, load_from_cache_file=False))

    return lambda: len(cleaned(folder, "repair", 0)), peer


def clean(folder: Path) -> tuple[Work, Work]:
    from luthier.cli.clean import USUAL

    def work(workers: int) -> int:
        return sum(outcome.drop is not None for outcome in cleaned(folder, USUAL, workers))

    return partial(work, 2), partial(work, 0)


def cleaned(folder: Path, cleaners: str, workers: int) -> list[Outcome]:
    from luthier.cli.clean import chosen_cleaners

    rows = [Row(Origin("rows", number), value) for number, value in enumerate(values(folder))]
    with Cleaning(chosen_cleaners(cleaners, ()), workers=workers) as cleaning:
        return list(cleaning.rows(rows, "prompt-completion"))


JOBS = {
    "read JSONL": Job("datasets, streaming", partial(read, "json")),
    "read CSV": Job("datasets, streaming", partial(read, "csv")),
    "read Parquet": Job("datasets, streaming", partial(read, "parquet")),
    "render": Job("datasets.map, without a mask", render),
    "near-duplicates": Job("datasketch", near, finds=True, least=1.0),
    "duplicates": Job("a set of digests", duplicates, finds=True),
    "repair": Job("datasets.map of ftfy", repair),
    "clean, 2 workers": Job("no workers", clean, finds=True),
}


def one(job: str, folder: Path, rows: int) -> dict[str, Any]:
    """Do a job with few rows, so that everything is loaded, and three times with all, who begins by turns."""
    for work in JOBS[job].make(folder / "few"):
        work()
    contenders = JOBS[job].make(folder / "all")
    spent: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    found = [0, 0]
    for turn in range(REPEATS):
        for who in (turn % 2, 1 - turn % 2):
            started = clocks()
            found[who] = contenders[who]()
            spent[who].append((clocks()[0] - started[0], clocks()[1] - started[1]))
    ratios = [median(peer[clock] / ours[clock] for ours, peer in zip(*spent, strict=True)) for clock in (0, 1)]
    return {"rates": [rows / median(wall for wall, _ in own) for own in spent], "ratios": ratios, "found": found}


def clocks() -> tuple[float, float]:
    """Seconds, and seconds in which this process and its workers had a processor."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + workers.ru_utime + workers.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--only", default="", help="beginnings of the jobs' names, with commas between them")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        job, folder = given.one
        print(json.dumps(one(job, Path(folder), given.rows)))
        return
    table, failed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "few", WARM_ROWS)
        write(Path(scratch) / "all", given.rows)
        for name, job in JOBS.items():
            if not name.startswith(tuple(given.only.split(","))):
                continue
            result = in_process("benchmarks.throughput", "--rows", str(given.rows), "--one", name, scratch)
            (ours, peer), (found, its) = result["rates"], result["found"]
            ratios = [f"{ratio:.2f}" for ratio in result["ratios"]]
            table.append([name, f"{ours:,.0f}", job.peer, f"{peer:,.0f}", *ratios, f"{found:,}, {its:,}"])
            print(table[-1], file=sys.stderr, flush=True)
            due = given.rows // 10 if job.finds else given.rows
            failed += [f"{name}: {found:,} of {due:,} rows"] if found < due else []
            failed += [f"{name}: {ratios[1]} x"] if result["ratios"][1] < job.least else []
    print(f"\n{machine()}; {given.rows:,} rows\n")
    print_table(
        ["job", "rows a second", "peer", "its rows a second", "ratio", "of processor time", "found by both"], table
    )
    if failed:
        raise SystemExit(f"less than promised: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
