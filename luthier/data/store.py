"""Rows and what they are rendered to, on disk where they are many, each under what it is made from.

A row that was rendered before, by the same renderer for the same objective, is not rendered again: not in the next run,
and not after a kill half-way. What is held in memory of a row are a few bytes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

import luthier
from luthier.data.conversation import Content, Origin, Row
from luthier.data.formats import base as formats
from luthier.data.ledger import Outcome
from luthier.data.pack import Example
from luthier.data.render import Renderer, Tokens
from luthier.plugins import Part, names
from luthier.system.files import scratch_database
from luthier.system.kept import database

HELD, EXTREME = 10_000, 1_000
"""Rows up to which all are held in memory, and rows of which the longest or the shortest are looked for."""
TABLE = "CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, key BLOB UNIQUE, said TEXT, made BLOB, what TEXT)"


def fingerprint(renderer: Renderer, objective: object, settings: Sequence[object]) -> str | None:
    """What decides how rows are rendered, as sixteen hex digits: settings, tokenizer, template, and the code of all.

    None where that cannot be told: parts that are not described by settings, templates that look at the clock.
    """
    tokenizer = renderer.tokenizer
    template = str(tokenizer.chat_template)
    if not isinstance(objective, Part) or not tokenizer.is_fast or "strftime_now" in template:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for what in (*settings, objective.model_dump_json(), template, sorted(renderer.options.items()),
                 sorted(renderer.stop_ids), tokenizer.special_tokens_map, tokenizer.backend_tokenizer.to_str(),
                 sorted((key, str(value)) for key, value in tokenizer.init_kwargs.items() if key != "name_or_path"),
                 version("transformers"), version("tokenizers")):  # fmt: skip
        digest.update(f"{what}\0".encode())
    ours = Path(luthier.__file__).parent
    code = {*ours.glob("data/**/*.py"), *ours.glob("data/**/*.yaml")}  # words are code of another kind
    for part in (objective, renderer, tokenizer, *(formats.named(name) for name in names("format"))):
        files = [file for one in type(part).__mro__[:-1] for file in _code(one)]
        if None in files:
            return None
        code |= {file for file in files if file is not None}
    for file in sorted(code):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _code(kind: type) -> Iterable[Path | None]:
    """The file in which a class stands, and those beside it where it is not ours; None where it stands in none."""
    package = kind.__module__.partition(".")[0]
    file = getattr(sys.modules[kind.__module__], "__file__", None)
    if package in ("builtins", "abc", "typing", "pydantic", "transformers"):  # whose versions count
        return []
    return [None] if file is None else [Path(file)] if package == "luthier" else Path(file).parent.glob("*.py")


def kept(name: str) -> Store:
    """The store of that name, as earlier runs left it; one of this process alone where nothing can be kept."""
    return Store(database(name, TABLE))


class RenderedRow(NamedTuple):
    """What a row gives: its sequences, whole or in part, or why there are none."""

    sequences: tuple[Tokens, ...]
    outcome: Outcome
    reason: str = ""
    detail: str = ""


NOWHERE = Origin("", 0)


class Store:
    """The rows of a database, or with None, of this process alone."""

    def __init__(self, rows: sqlite3.Connection | None = None) -> None:
        self.rows = scratch_database(TABLE) if rows is None else rows

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is written in the block is written together; it stays also where the block fails."""
        if not self.rows.in_transaction:
            self.rows.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            if self.rows.in_transaction:
                self.rows.execute("COMMIT")

    def add(self, format: str, value: Any) -> int:
        """The number of a row in this store, which has it once."""
        said = json.dumps([format, value])
        key = hashlib.blake2b(said.encode(), digest_size=16).digest()
        found = self.rows.execute("SELECT id FROM row WHERE key = ?", (key,)).fetchone()
        if found:
            return int(found[0])
        return int(self.rows.execute("INSERT INTO row (key, said) VALUES (?, ?)", (key, said)).lastrowid or 0)

    def key(self, row: int) -> bytes:
        """Sixteen bytes of a row's format and value."""
        return bytes(self.rows.execute("SELECT key FROM row WHERE id = ?", (row,)).fetchone()[0])

    def content(self, row: int, origin: Origin = NOWHERE) -> Content:
        """What a row says."""
        return _content(self.rows.execute("SELECT said FROM row WHERE id = ?", (row,)).fetchone()[0], origin)

    def put(self, row: int, rendered: RenderedRow) -> None:
        """Keep what a row was rendered to."""
        parts = [np.asarray([len(rendered.sequences), *map(len, rendered.sequences)], dtype=np.int32).tobytes()]
        for one in rendered.sequences:
            parts += [np.asarray(one.ids, np.int32).tobytes(), np.asarray(one.weights, np.float32).tobytes()]
        what = json.dumps(rendered[1:])
        self.rows.execute(
            "UPDATE row SET made = ?, what = ? WHERE id = ?", (zlib.compress(b"".join(parts), 1), what, row)
        )

    def rendered(self, row: int) -> RenderedRow | None:
        """What a row was rendered to, if it was."""
        made, what = self.rows.execute("SELECT made, what FROM row WHERE id = ?", (row,)).fetchone()
        return None if made is None else RenderedRow(_sequences(made), *json.loads(what))

    def example(self, row: int, origin: Origin, number: int) -> Example:
        """A rendered row, which has this number in the ledger."""
        said, made = self.rows.execute("SELECT said, made FROM row WHERE id = ?", (row,)).fetchone()
        content = _content(said, origin)
        return Example(origin, content.content_id, _sequences(made), content, row=number)


def _content(said: str, origin: Origin) -> Content:
    layout, value = json.loads(said)
    return formats.read(layout, Row(origin, value))


def _sequences(made: bytes) -> tuple[Tokens, ...]:
    numbers = np.frombuffer(bytearray(zlib.decompress(made)), dtype=np.int32)  # which may be written to
    ends = (1 + numbers[0] + np.cumsum([0, *2 * numbers[1 : 1 + numbers[0]]])).tolist()
    pieces = [numbers[start:end] for start, end in pairwise(ends)]
    return tuple(Tokens(one[: len(one) // 2], one[len(one) // 2 :].view(np.float32)) for one in pieces)


# ---- the rows of a run ---------------------------------------------------------------------------------------------


class ReadRow(NamedTuple):
    """A row that was read: its place in that order, its number in the store, what it says, whence, what mended it.

    One that was made of another has the place of that in its file, and the method; `made_of` are the content ids of
    what it was before it was mended, or of all rows that it was made of.
    """

    place: int
    id: int
    identity: str
    origin: Origin
    weight: float
    mended: str
    method: str
    made_of: str


class ReadRows:
    """Rows in the order in which they were read, and the store in which they are."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.table = scratch_database(
            "CREATE TABLE row (place INTEGER PRIMARY KEY, id INTEGER, identity TEXT, source INTEGER, line INTEGER, "
            "mended TEXT, method TEXT, made_of TEXT)"
        )
        self.sources: list[tuple[str, float]] = []
        self.count = 0

    def source(self, file: str, weight: float) -> None:
        """A file whose rows follow, and how often each of them is seen."""
        self.sources.append((file, weight))

    def add(self, row: int, line: int, identity: str, *, mended: str = "", made_of: str = "") -> None:
        """One more row of the last source."""
        self._add(row, identity, len(self.sources) - 1, line, mended, "", made_of)

    def make(self, row: int, identity: str, parent: ReadRow, *, method: str, made_of: str) -> None:
        """One more row, made of one that is there."""
        (source,) = self.table.execute("SELECT source FROM row WHERE place = ?", (parent.place,)).fetchone()
        self._add(row, identity, source, parent.origin.line, parent.mended, method, made_of)

    def _add(self, *values: object) -> None:
        self.table.execute("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (self.count, *values))
        self.count += 1

    def contents(self) -> Iterator[Content]:
        """What each row says."""
        return (self.store.content(row.id, row.origin) for row in self)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> ReadRow:
        return self._row(self.table.execute("SELECT * FROM row WHERE place = ?", (place,)).fetchone())

    def __iter__(self) -> Iterator[ReadRow]:
        return map(self._row, self.table.execute("SELECT * FROM row ORDER BY place"))

    def _row(self, values: tuple[int, int, str, int, int, str, str, str]) -> ReadRow:
        place, row, identity, source, line, *how = values
        file, weight = self.sources[source]
        return ReadRow(place, row, identity, Origin(file, line), weight, *how)


class Rows(Sequence[Example]):
    """Rendered rows in an order, each read when it is asked for; one may be there several times.

    `tokens` and `longest` are how many tokens each has, and its longest sequence; `digest` is of what they are.
    """

    def __init__(self, read: ReadRows) -> None:
        self.store, self.read = read.store, read
        self.places, self.numbers, self.tokens, self.longest = (array("I") for _ in range(4))
        self.digest = hashlib.sha256()

    def add(self, row: ReadRow, rendered: RenderedRow, number: int, *, times: int) -> None:
        """One more row, which has this number in the ledger, so many times."""
        self.digest.update(self.store.key(row.id) + bytes([min(times, 255)]))
        for one in rendered.sequences:
            self.digest.update(one.ids.tobytes() + one.weights.tobytes())
        lengths = [len(one) for one in rendered.sequences]
        self.places.extend([row.place] * times)
        self.numbers.extend([number] * times)
        self.tokens.extend([sum(lengths)] * times)
        self.longest.extend([max(lengths)] * times)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row = self.read[self.places[place]]
        return self.store.example(row.id, row.origin, self.numbers[place])

    def held(self) -> Sequence[Example]:
        """The same rows in memory, where they are few."""
        return list(self) if len(self) <= HELD else self

    def identities(self) -> Iterator[tuple[str, Origin]]:
        """What each row says, and where it is from."""
        return ((row.identity, row.origin) for row in map(self.read.__getitem__, self.places))


def tokens_of(rows: Sequence[Example]) -> Sequence[int]:
    """How many tokens each row has; of rows in a store, without reading them."""
    return rows.tokens if isinstance(rows, Rows) else [row.tokens for row in rows]


def longest_of(rows: Sequence[Example]) -> Sequence[int]:
    """How many tokens the longest sequence of each row has."""
    return rows.longest if isinstance(rows, Rows) else [max(map(len, row.sequences)) for row in rows]


def identities_of(rows: Sequence[Example]) -> Iterator[tuple[str, Origin]]:
    """What each row says, and where it is from."""
    return rows.identities() if isinstance(rows, Rows) else ((row.content_id, row.origin) for row in rows)


def extreme(rows: Sequence[Example], *, longest: bool) -> list[Example]:
    """Rows among which the longest or the shortest are, in their order; all, where they are few."""
    order = np.argsort(np.asarray(tokens_of(rows)), kind="stable")
    return [rows[place] for place in np.sort(order[-EXTREME:] if longest else order[:EXTREME]).tolist()]
