"""What a processor reads from sources, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.config import SourceConfig
from luthier.data.conversation import Content
from luthier.data.ledger import Ledger
from luthier.data.processor import DataProcessor
from luthier.data.recognise import Reading
from luthier.data.store import ReadRows, Store


def contents(
    sources: Sequence[SourceConfig], ledger: Ledger | None = None, readings: list[Reading] | None = None
) -> list[Content]:
    """What each usable row says."""
    rows = ReadRows(Store())
    DataProcessor().read(sources, rows, ledger or Ledger(), [] if readings is None else readings)
    return list(rows.contents())
