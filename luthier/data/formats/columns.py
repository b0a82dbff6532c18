"""Tables whose columns are called as people call them: `Question` and `Answer`, 问题 and 答案, `text` and `sentiment`.

Only names that leave no doubt are taken; where there is one, the readings are shown with the line to write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from luthier.errors import AmbiguousFormat
from luthier.supplies import shipped

_WORDS = shipped("luthier.data.formats", "keys.yaml")
NAMES: dict[str, list[str]] = _WORDS["columns"]
"""Keys of layouts, and what columns for them are called."""
CLASSES: list[str] = _WORDS["classes"]
"""What columns are called that say what kind of text another column holds."""


def mapping(columns: Iterable[str], file: str) -> dict[str, str]:
    """Keys of layouts and the columns that hold them; empty where no column's name says anything.

    Raises:
        AmbiguousFormat: two columns may be the same key, or a text may be what is learnt or what is asked.
    """
    given = list(columns)
    found = {key: [name for name in given if _plain(name) in names] for key, names in NAMES.items()}
    if found["chosen"] and found["rejected"]:
        wanted: tuple[str, ...] = ("prompt", "chosen", "rejected", "system")
    elif found["prompt"] and found["completion"]:
        wanted = ("prompt", "completion", "system")
    elif found["text"] and not found["prompt"] and not found["completion"]:
        _no_class(found["text"][0], given, file)
        wanted = ("text",)
    else:
        return {}
    for key in wanted:
        if len(found[key]) > 1:
            lines = [write({key: name}, file) for name in found[key]]
            raise AmbiguousFormat(
                f"{file}: {' or '.join(found[key])} may be the {key}. Say which:\n" + "\n".join(lines)
            )
    return {key: found[key][0] for key in wanted if found[key]}


def _no_class(text: str, columns: Sequence[str], file: str) -> None:
    kind = next((name for name in columns if _plain(name) in CLASSES), None)
    if kind is not None:
        one, other = write({"text": text}, file), write({"prompt": text, "completion": kind}, file)
        raise AmbiguousFormat(
            f"{file}: is {kind!r} to be answered, or {text!r} to be learnt as it stands? Say which:\n{other}\n{one}"
        )


def write(columns: Mapping[str, str], file: str) -> str:
    """The line of a config that reads a file so."""
    path = json.dumps(file, ensure_ascii=False)  # quoted, since a path may hold what YAML takes for its own
    return f"  data: {{train: [{{path: {path}, columns: {json.dumps(dict(columns), ensure_ascii=False)}}}]}}"


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
