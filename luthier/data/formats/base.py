"""A format turns one row into a `Conversation` or a `Text`.

What it does: says whether a row has its layout, and reads it.
What it must not know: tokenizers, chat templates, files, other formats.
How to add one: one file here with a class like the ones beside it, one line under `format` in `plugins.yaml`
(or an entry point `luthier.format` in a package of your own).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from luthier import plugins
from luthier.data.conversation import Content, Row
from luthier.data.strict import listed
from luthier.errors import AmbiguousFormat, DataError, RowError
from luthier.supplies import shipped

Found = TypeVar("Found")
SAMPLE_ROWS = 200
"""Rows looked at to recognise a file."""

PREFERENCE_KEYS = frozenset(
    {"chosen", "rejected", "chosen_response", "rejected_response", "chosen_messages", "rejected_messages"}
)
"""Keys of layouts that say which answer is better."""

NOT_READ: list[dict[str, Any]] = shipped("luthier.data.formats", "keys.yaml")["not_read"]
"""Keys of layouts that are known and not read, and why."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Keys of rows that hold more than text."""

SHOWN_KEYS = 20
"""Keys named in a message; a file of one object by ids would name thousands."""


class NoFormat(DataError):
    """No format reads most rows of a file."""


class Format(Protocol):
    """One layout of rows."""

    evidence: str
    """The keys it looks for, for messages to the user."""

    def recognises(self, value: Any) -> bool:
        """Whether a row has this layout; never raises."""

    def read(self, row: Row) -> Content:
        """The content of one row.

        Raises:
            RowError: the row has this layout but cannot be used.
        """


def named(name: str) -> Format:
    """The format of that name."""
    found: Format = plugins.load("format", name)()
    return found


def read(name: str, row: Row) -> Content:
    """The content of one row in the format of that name.

    Raises:
        RowError: the row cannot be used; pictures and sounds would be left out, so that rows with some cannot either.
    """
    media = next((key for key in MEDIA if row.value.get(key)), None) if isinstance(row.value, dict) else None
    if media is not None:
        raise RowError(row.origin, "media", f"has {media}, and only text is read")
    return named(name).read(row)


def recognise(rows: Sequence[Row], file: str) -> str:
    """The name of the one format that reads these rows.

    A format is chosen when it reads most rows and no other reads a tenth: a few bad rows are the ledger's business.

    Raises:
        AmbiguousFormat: two formats read the same rows.
        DataError: none does, or some rows have one layout and some another.
    """
    rows = _of_one_kind(rows[:SAMPLE_ROWS])
    sample = [row.value for row in rows]
    for keys, why in ((known["keys"], known["why"]) for known in NOT_READ):
        if all(isinstance(value, dict) and set(keys) <= set(value) for value in sample):
            raise DataError(f"{file}: rows with {' and '.join(keys)} cannot be read: {why}")
    shares = {name: sum(named(name).recognises(value) for value in sample) for name in plugins.names("format")}
    candidates = [name for name, count in shares.items() if count * 10 >= len(sample)]
    if len(candidates) == 1 and shares[candidates[0]] * 2 >= len(sample):
        return candidates[0]
    if len(candidates) > 1 and not any(sum(named(n).recognises(value) for n in candidates) > 1 for value in sample):
        firsts = (next(row for row in rows if named(name).recognises(row.value)) for name in candidates)
        places = ", ".join(f"line {row.origin.line} is {name}" for name, row in zip(candidates, firsts, strict=True))
        raise DataError(f"{file}: the rows have several layouts ({places}); put the rows of each in a file of its own")
    if len(candidates) > 1:
        raise AmbiguousFormat(_readings(candidates, rows[:SAMPLE_ROWS], file))
    layouts = "\n".join(f"  {name}: {named(name).evidence}" for name in plugins.names("format"))
    raise NoFormat(
        f"{file}: no format reads these rows (rows {_kind(sample)}). Layouts that are recognised:\n{layouts}"
    )


def _of_one_kind(rows: Sequence[Row]) -> Sequence[Row]:
    """Without the few that are no objects, or no lists, where most are."""
    kinds = Counter(type(row.value) for row in rows)
    kind, count = kinds.most_common(1)[0]
    return [row for row in rows if type(row.value) is kind] if 2 * count > len(rows) else rows


def judged(value: Mapping[str, Any]) -> bool:
    """Whether a row says which answer is better, or whether its answer is wanted; then it is no plain conversation."""
    return bool(PREFERENCE_KEYS & set(value)) or isinstance(value.get("label"), bool)


def unanswered(value: Mapping[str, Any]) -> bool:
    """Whether a row's messages end before the answer, and the right one stands beside them."""
    talk = listed(value.get("messages")) if value.get("solution") is not None else None
    return isinstance(talk, list) and bool(talk) and isinstance(talk[-1], dict) and talk[-1].get("role") != "assistant"


def found_in(row: Row, find: Callable[[dict[str, Any]], Found | None], evidence: str) -> Found:
    """What a format finds in a row of its layout; raises RowError where the row has another one."""
    found = find(row.value) if isinstance(row.value, dict) else None
    if found is None:
        raise wrong_layout(row, evidence)
    return found


def wrong_layout(row: Row, evidence: str) -> RowError:
    """The error of a row that does not have the layout of its file."""
    return RowError(row.origin, "wrong-layout", f"expected {evidence}; got a row {_kind([row.value])}")


def _kind(values: Sequence[Any]) -> str:
    keys = sorted({str(key) for value in values if isinstance(value, dict) for key in value})
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"with the keys {', '.join(keys[:SHOWN_KEYS])}{more}" if keys else f"of type {type(values[0]).__name__}"


def _readings(candidates: Sequence[str], rows: Sequence[Row], file: str) -> str:
    row = max(rows, key=lambda one: sum(named(name).recognises(one.value) for name in candidates))
    lines = [f"{file}: more than one format reads these rows, for example {row.origin}:"]
    for name in candidates:
        try:
            shown = repr(named(name).read(row))
        except DataError as error:
            shown = f"refused: {error}"
        lines.append(f"  as {name}: {shown[:300]}")
    lines.append("Say which one in the config, for example")
    path = json.dumps(file, ensure_ascii=False)  # quoted, since a path may hold what YAML takes for its own
    lines.append(f"  data: {{train: [{{path: {path}, format: {candidates[0]}}}]}}")
    return "\n".join(lines)
