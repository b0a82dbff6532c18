"""Lists that a table can only hold as text: `[{"role": ...}]` in a cell is the list that it spells."""

from __future__ import annotations

from typing import Any

from luthier.data.strict import read_json


def listed(value: Any) -> Any:
    """The JSON list or object that a string spells; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return read_json(value)
        except ValueError:
            return value
    return value
