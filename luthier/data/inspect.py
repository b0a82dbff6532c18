"""What a source of rows is: its format and why, how it was read, what is in it, and what of it nobody looks at."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from luthier.config import SourceConfig
from luthier.data.conversation import Content, Conversation, Row, Task, Text, conversations
from luthier.data.formats import base as formats
from luthier.data.processor import Reading, recognised
from luthier.data.sources import how, rows_of, with_columns
from luthier.errors import DataError, RowError
from luthier.plugins import names

SAMPLE = 300
"""Rows of which the language is told."""
EXAMPLES = 3
"""Bad rows kept of each kind."""


@dataclass(slots=True)
class Inspection:
    """One file, looked at from end to end.

    `share` of the first rows have the layout; `others` have one too in part. `unread` are keys that the layout does not
    look at. `bad` are rows that cannot be used, by reason, the first few of each. `characters` is the length of each
    usable row's text, `repeated` how many say what another one says, `sample` the texts of rows drawn at random.
    """

    reading: Reading
    share: float
    others: dict[str, float]
    unread: list[str]
    encoding: str
    first: list[Row]
    usable: int = 0
    bad: dict[str, list[RowError]] = field(default_factory=dict)
    bad_counts: Counter[str] = field(default_factory=Counter)
    characters: array[int] = field(default_factory=lambda: array("Q"))
    repeated: int = 0
    sample: list[str] = field(default_factory=list)


class _Watched(dict[str, Any]):
    """A row that knows which of its keys were asked for."""

    def __init__(self, value: Mapping[str, Any], asked: set[str]) -> None:
        super().__init__(value)
        self.asked = asked

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is then no longer unread."""
        self.asked.add(key)
        return super().get(key, default)


def inspect(source: SourceConfig, file: str, *, shown: int = 2) -> Inspection:
    """Look at all rows of one of a source's files.

    Raises:
        DataError: as reading it does; or nothing is in it.
    """
    reading = how(source)
    rows = rows_of(source, file, reading, limit=source.limit)
    head = list(islice(rows, formats.SAMPLE_ROWS))
    if not head:
        raise DataError(f"{file}: the file holds no rows")
    name, columns = recognised(source, head, file)
    every = chain(head, rows)
    there = {key for row in head if isinstance(row.value, dict) for key in row.value}
    asked, ids, count = set(columns.values()), array("Q"), 0
    result = Inspection(Reading(file, name, source.format == "auto", 0), 0.0, {}, [], "", [])
    chance = random.Random(0)
    for row in with_columns(every, columns, file) if columns else every:
        count += 1
        if count <= shown:
            result.first.append(row)
        value = row.value
        if isinstance(value, dict):
            value = _Watched(value, asked)
        try:
            content = formats.read(name, Row(row.origin, value))
        except RowError as error:
            result.bad_counts[error.reason] += 1
            result.bad.setdefault(error.reason, [])
            if len(result.bad[error.reason]) < EXAMPLES:
                result.bad[error.reason].append(error)
            continue
        result.usable += 1
        text = text_of(content)
        result.characters.append(len(text))
        ids.append(int(content.content_id, 16))
        place = len(result.sample) if len(result.sample) < SAMPLE else chance.randrange(result.usable)
        if place < SAMPLE:
            result.sample[place : place + 1] = [text[:2000]]
    result.reading = Reading(file, name, source.format == "auto", count, reading.found, columns)
    result.encoding = str(reading.characters or "")
    result.unread = sorted(there - asked)
    result.repeated = len(ids) - len(set(ids))
    values = [row.value for row in (with_columns(iter(head), columns, file) if columns else head)]
    shares = {one: sum(map(formats.named(one).recognises, values)) / len(head) for one in names("format")}
    result.share = shares.pop(name)
    result.others = {one: share for one, share in shares.items() if share}
    return result


def text_of(content: Content) -> str:
    """All that a row says, one turn a line."""
    if isinstance(content, Text):
        return content.text
    talks: tuple[Conversation, ...] = (content.asked,) if isinstance(content, Task) else conversations(content)
    return "\n".join(message.content for talk in talks for message in talk.messages)
