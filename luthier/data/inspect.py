"""What a source of rows is: its format and why, how it was read, what is in it, and what of it nobody looks at."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.config import SourceConfig
from luthier.data.clean.base import said
from luthier.data.conversation import Row
from luthier.data.formats import base as formats
from luthier.data.recognise import Reading, recognised
from luthier.data.sources import with_columns
from luthier.errors import RowError
from luthier.plugins import names

SAMPLE = 300
"""Rows of which the language is told."""


@dataclass(slots=True)
class Inspection:
    """One file, looked at from end to end.

    `share` of the first rows have the layout; `others` have one too in part. `unread` are keys that the layout does not
    look at. `bad` are rows that cannot be used, by reason, the first of each. `characters` is the length of each
    usable row's text, `repeated` how many say what another one says, `sample` the texts of rows drawn at random.
    """

    reading: Reading
    share: float
    others: dict[str, float]
    unread: list[str]
    encoding: str
    first: list[Row]
    usable: int = 0
    bad: dict[str, RowError] = field(default_factory=dict)
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
    opened = recognised(source, file, limit=source.limit)
    name, columns = opened.format, opened.columns
    there = {key for row in opened.head if isinstance(row.value, dict) for key in row.value}
    asked, ids, count = set(columns.values()), array("Q"), 0
    result = Inspection(opened.reading(), 0.0, {}, [], "", [])
    chance = random.Random(0)
    for row in opened.rows:
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
            result.bad.setdefault(error.reason, error)
            continue
        result.usable += 1
        text = said(content, "").text
        result.characters.append(len(text))
        ids.append(int(content.content_id, 16))
        place = len(result.sample) if len(result.sample) < SAMPLE else chance.randrange(result.usable)
        if place < SAMPLE:
            result.sample[place : place + 1] = [text[:2000]]
    result.reading = opened.reading(count)
    result.encoding = str(opened.how.characters or "")
    result.unread = sorted(there - asked)
    result.repeated = len(ids) - len(np.unique(np.frombuffer(ids, dtype=np.uint64)))
    head = with_columns(iter(opened.head), columns, file) if columns else opened.head
    values = [row.value for row in head]
    shares = {one: sum(map(formats.named(one).recognises, values)) / len(values) for one in names("format")}
    result.share = shares.pop(name)
    result.others = {one: share for one, share in shares.items() if share}
    return result
