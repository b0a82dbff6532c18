"""A format turns one row into a `Conversation` or a `Text`.

What it does: says whether a row has its layout, and reads it.
What it must not know: tokenizers, chat templates, files, other formats.
How to add one: one file here with a class like the ones beside it, one line in `plugins.BUILT_IN["format"]`
(or an entry point `luthier.format` in a package of your own).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from luthier import plugins
from luthier.data.conversation import Content, Row
from luthier.errors import AmbiguousFormat, DataError

SAMPLE_ROWS = 200
"""Rows looked at to recognise a file."""

PREFERENCE_KEYS = frozenset({"chosen", "rejected"})
"""Keys of layouts that say which answer is better; a plain conversation has none of them."""


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


def recognise(rows: Sequence[Row], file: str) -> str:
    """The name of the one format that reads these rows.

    A format is chosen when it reads most rows (a few bad rows are the ledger's business) and no other reads any.

    Raises:
        AmbiguousFormat: two formats read the rows.
        DataError: none does.
    """
    sample = [row.value for row in rows[:SAMPLE_ROWS]]
    shares = {name: sum(named(name).recognises(value) for value in sample) for name in plugins.names("format")}
    candidates = [name for name, count in shares.items() if count * 10 >= len(sample)]
    if len(candidates) == 1 and shares[candidates[0]] * 2 >= len(sample):
        return candidates[0]
    if len(candidates) > 1:
        raise AmbiguousFormat(_readings(candidates, rows[0], file))
    seen = sorted({str(key) for value in sample if isinstance(value, dict) for key in value})
    layouts = "\n".join(f"  {name}: {named(name).evidence}" for name in plugins.names("format"))
    what = f"rows with the keys {', '.join(seen)}" if seen else f"rows of type {type(sample[0]).__name__}"
    raise DataError(f"{file}: no format reads these rows ({what}). Layouts that are recognised:\n{layouts}")


def _readings(candidates: Sequence[str], row: Row, file: str) -> str:
    lines = [f"{file}: more than one format reads these rows, for example {row.origin}:"]
    for name in candidates:
        try:
            shown = repr(named(name).read(row))
        except DataError as error:
            shown = f"refused: {error}"
        lines.append(f"  as {name}: {shown[:300]}")
    lines.append("Say which one in the config, for example")
    lines.append(f"  data: {{train: [{{path: {file}, format: {candidates[0]}}}]}}")
    return "\n".join(lines)
