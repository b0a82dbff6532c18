"""The same text in two languages: `{"source": ..., "target": ..., "source_lang": ..., "target_lang": ...}`.

Also `{"translation": {"en": ..., "de": ...}}`, and columns that are called like languages. The first language is asked
in, the second answered in.
"""

from __future__ import annotations

from typing import Any

from luthier.data.conversation import Content, Message, Row, conversation
from luthier.data.formats.base import found_in, judged
from luthier.data.language import LANGUAGES
from luthier.errors import RowError

ASK = "Translate from {source} to {target}:\n{text}"
ASK_PLAIN = "Translate:\n{text}"


class Parallel:
    """A text, its translation, and their languages where the row says them."""

    evidence = "source and target, with source_lang and target_lang; or two keys that are languages, as en and de"

    def recognises(self, value: Any) -> bool:
        """Two texts that are each other's translation, and little else."""
        if not isinstance(value, dict) or judged(value) or _pair(value) is None:
            return False
        return bool({"source", "translation"} & set(value)) or len(value) <= 3

    def read(self, row: Row) -> Content:
        """The conversation; raises RowError."""
        (source, text), (target, translated) = found_in(row, _pair, self.evidence)
        if not text.strip():
            raise RowError(row.origin, "empty-question", "there is nothing to translate")
        ask = ASK if source and target else ASK_PLAIN
        asked = ask.format(source=_name(source), target=_name(target), text=text)
        turns = [Message(role="user", content=asked), Message(role="assistant", content=translated)]
        return conversation(turns, row.origin)


def _pair(value: dict[str, Any]) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Language and text of both sides."""
    if isinstance(value.get("source"), str) and isinstance(value.get("target"), str):
        languages = [value.get(key) or value.get(f"{key}uage") for key in ("source_lang", "target_lang")]
        source, target = (str(language or "") for language in languages)
        return (source, value["source"]), (target, value["target"])
    inner = value.get("translation", value)
    if not isinstance(inner, dict):
        return None
    named = [key for key in inner if _base(str(key)) in LANGUAGES and (inner is not value or key != "id")]  # a number
    texts = [(str(key), inner[key]) for key in named if isinstance(inner[key], str)]
    return (texts[0], texts[1]) if len(texts) == 2 else None


def _base(code: str) -> str:
    """The language of a code that may name a country or a script."""
    return code.replace("-", "_").split("_")[0].lower()


def _name(code: str) -> str:
    """A language by its name, with the rest of its code where there is one."""
    rest = code.replace("-", "_").split("_")[1:]
    return LANGUAGES.get(_base(code), code) + (f" ({', '.join(rest)})" if rest and _base(code) in LANGUAGES else "")
