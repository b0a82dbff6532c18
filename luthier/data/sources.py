"""What a config names as data, into rows, each with its file and line: files, folders, patterns, `-`, and the hub.

Knows where rows come from, not what kind of file they are in (`files/`) nor what they mean (`formats/`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from luthier.config import SourceConfig
from luthier.data.conversation import Origin, Row
from luthier.data.dataset_info import FILE, DataSets
from luthier.data.files.base import How, kind_of, suffixes
from luthier.data.files.columnar import plain
from luthier.data.files.opened import CHUNK, PACKED, opened
from luthier.data.strict import listed
from luthier.errors import DataError
from luthier.plugins import suggestion
from luthier.supplies import library, shipped

HUB = "hub:"
STDIN = "-"
PATTERN = frozenset("*?[")
_WORDS = shipped("luthier.data", "sources.yaml")
SPEAKERS: dict[str, str] = _WORDS["speakers"]
"""Who speaks, and what ShareGPT calls them."""
NOT_ROWS = tuple(_WORDS["not_rows"])
"""How files in a folder of data are called that are about it."""


def read_rows(path: str | Path, *, limit: int | None = None, how: How | None = None) -> Iterator[Row]:
    """The rows of one file, in order, none held.

    Raises:
        DataError: no such file, of no known kind, or not what it should be (with the line).
    """
    with opened(Path(path)) as file:
        for line, value in islice(kind_of(file).rows(file, how or How()), limit):
            yield Row(Origin(str(path), line), value)


def resolved(source: SourceConfig) -> SourceConfig:
    """The source itself; of a dataset_info.json, the data set that it names.

    Raises:
        DataError: there is none of that name.
    """
    if Path(source.path).name != FILE:
        if source.name is not None:
            raise DataError(f"{source.path}: name: only a {FILE} has data sets with names")
        return source
    sets = DataSets.read(Path(source.path))
    if source.name is None:
        first = next(iter(sets.entries), "alpaca_en_demo")
        raise DataError(f"{source.path}: names data sets; write {{path: {source.path}, name: {first}}}")
    found, _ = sets.sources(source.name, most=source.limit)
    return source.model_copy(update=dict(SourceConfig.model_validate(found[0])) | {"weight": source.weight})


def files_of(source: SourceConfig) -> list[str]:
    """The files that a source names, in the order of their names.

    Raises:
        DataError: there is none, or a link leads out of the folder.
    """
    if source.path.startswith(HUB) or source.path == STDIN:
        return [source.path]
    path = Path(source.path)
    if PATTERN & set(source.path) and not path.exists():
        root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if PATTERN & set(part))])
        found = [file for file in root.glob(str(path.relative_to(root))) if file.is_file()]
    elif path.is_dir():
        root, found = path, _inside(path)
    else:
        return [source.path]
    inside = root.resolve()
    for file in found:
        if not file.resolve().is_relative_to(inside):
            raise DataError(f"{file}: a link out of {root}; name the file it leads to")
    if not found:
        raise DataError(f"{source.path}: no file of rows there; allowed: {', '.join(suffixes())}")
    return sorted(map(str, found))


def _inside(folder: Path) -> list[Path]:
    known = set(suffixes())
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            inner = Path(name).with_suffix("") if Path(name).suffix.lower() in PACKED.values() else Path(name)
            about = name.lower().startswith(NOT_ROWS) or name.startswith(".")
            if inner.suffix.lower() in known and not about:
                found.append(Path(place) / name)
    return found


def rows_of(source: SourceConfig, file: str, reading: How, *, limit: int | None = None) -> Iterator[Row]:
    """The rows of one of a source's files, its columns under the names that layouts have for them.

    Raises:
        DataError: as `read_rows`; or a column that no row has.
    """
    rows: Iterator[Row]
    if file.startswith(HUB):
        rows = islice(_hub_rows(source), limit)
    elif file == STDIN:
        rows = islice(_stdin_rows(reading), limit)
    else:
        rows = read_rows(file, limit=limit, how=reading)
    rows = with_columns(rows, source.columns, file) if source.columns else rows
    return with_turns(rows, source.turns) if source.turns else rows


def with_columns(rows: Iterator[Row], columns: Mapping[str, str], file: str) -> Iterator[Row]:
    """Rows that hold nothing but the columns named, each under the key that its layout has for it.

    Raises:
        DataError: at the end: a column that no row has.
    """
    there: dict[str, None] = {}
    for row in rows:
        if isinstance(row.value, dict):
            there |= dict.fromkeys(row.value)
            kept = {own: row.value[theirs] for own, theirs in columns.items() if theirs in row.value}
            row = replace(row, value=kept)  # noqa: PLW2901
        yield row
    for own, theirs in columns.items():
        if theirs not in there and own != theirs:  # under its own name it may be one that rows need not have
            raise DataError(f"{file}: columns: {own}: no row has the key {theirs!r}; {suggestion(theirs, there)}")


def with_turns(rows: Iterator[Row], turns: Mapping[str, str]) -> Iterator[Row]:
    """Rows whose turns are called as ShareGPT calls them. Who is not named keeps the name, which layouts may refuse."""
    role, content = turns.get("role", "from"), turns.get("content", "value")
    speakers = {turns[who]: own for who, own in SPEAKERS.items() if who in turns}

    def turned(value: Any) -> Any:
        if isinstance(value, list):
            return [turned(one) for one in value]
        if not isinstance(value, dict) or role not in value:
            return value
        rest = {key: inner for key, inner in value.items() if key not in (role, content)}
        said = value[role]
        who = speakers.get(said, said) if isinstance(said, str) else said
        return rest | {"from": who, "value": value.get(content)}

    for row in rows:
        if isinstance(row.value, dict):
            spoken = {key: listed(value) for key, value in row.value.items() if _spoken(listed(value), role)}
            row = replace(row, value=row.value | {key: turned(one) for key, one in spoken.items()})  # noqa: PLW2901
        yield row


def _spoken(value: Any, role: str) -> bool:
    """Whether a value is a turn, or a list of some; an answer that is a JSON list is none."""
    return isinstance(value, dict | list) and any(
        isinstance(turn, dict) and role in turn for turn in (value if isinstance(value, list) else [value])
    )


def _stdin_rows(reading: How) -> Iterator[Row]:
    """What is piped in: JSON where it begins like it, else text. Kept in a file meanwhile, since it comes only once."""
    with tempfile.TemporaryDirectory() as folder:
        stream: BinaryIO = sys.stdin.buffer
        first = stream.read(CHUNK)
        begins = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        copy = Path(folder) / ("stdin.jsonl" if begins in (b"{", b"[", b'"') else "stdin.txt")
        with copy.open("wb") as file:
            while first:
                file.write(first)
                first = stream.read(CHUNK)
        for row in read_rows(copy, how=reading):
            yield replace(row, origin=Origin("<stdin>", row.origin.line))


def _hub_rows(source: SourceConfig) -> Iterator[Row]:
    """Rows of a data set on the Hugging Face hub, as they come."""
    datasets = library("datasets", source.path, "data")
    name = source.path.removeprefix(HUB)
    try:
        found: Any = datasets.load_dataset(name, source.subset, split=source.split, streaming=True)
        for number, value in enumerate(found, 1):
            yield Row(Origin(source.path, number), plain(value, f"{source.path}:{number}"))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{source.path}: cannot be read: {error}") from None
