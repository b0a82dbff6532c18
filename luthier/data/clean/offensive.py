"""Offensive and abusive text: English by a linear classifier (alt-profanity-check), Chinese by lists of words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.data.clean.base import Cleaner, CleanerSettings, Drop, Said
from luthier.supplies import library

LISTS = ("general", "pornographic")
"""Of its lists, those of what is offensive in itself; politics and advertisement are not."""
SENTENCE = re.compile(r"[^.!?\n。！？]+[.!?。！？]*")


class Offensive(CleanerSettings):
    """Drop rows that insult, abuse or obscene."""

    type: Literal["offensive"] = "offensive"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """How likely the worst sentence of a row must be offensive."""

    def build(self) -> Cleaner:
        """Load the classifier: a pickle, but one of its library, as its code is; nothing of the user's is unpickled."""
        for module in ("cleanse_speech", "profanity_check"):
            library(module, "offensive", "clean", called="alt-profanity-check and cleanse-speech")
        return self

    def look(self, rows: Sequence[Said]) -> Sequence[Any]:
        """Rows whose worst sentence is likely to be offensive."""
        from profanity_check import predict_prob

        sentences = [(n, found.group().strip()) for n, row in enumerate(rows) for found in SENTENCE.finditer(row.text)]
        sentences = [(n, text) for n, text in sentences if any(c.isalpha() for c in text)]
        likely = predict_prob([text for _, text in sentences]) if sentences else []
        worst: list[tuple[float, str]] = [(0.0, "")] * len(rows)
        for (number, text), share in zip(sentences, likely, strict=True):
            worst[number] = max(worst[number], (float(share), text))
        found = [max(one, chinese(row.text)) for one, row in zip(worst, rows, strict=True)]
        least = self.threshold
        return [
            Drop("offensive", share, least, f"says {text[:80]!r}") if share >= least else None for share, text in found
        ]


@cache
def _words() -> re.Pattern[str]:
    """The lists of cleanse-speech, a word a line, each in base64; single characters say nothing."""
    import base64
    from importlib.resources import files

    found = set()
    for name in LISTS:
        for line in files("cleanse_speech").joinpath("bin", f"cn_{name}.bin").read_text(encoding="ascii").split():
            word = base64.b64decode(line).decode("utf-8", errors="ignore").strip()
            if len(word) > 1 and any("\u4e00" <= c <= "\u9fff" for c in word):
                found.add(word)
    return re.compile("|".join(re.escape(word) for word in sorted(found, key=len, reverse=True)))


def chinese(text: str) -> tuple[float, str]:
    """1 and the word, where a text has one of the lists."""
    found = _words().search(text) if any("\u4e00" <= c <= "\u9fff" for c in text) else None
    return (1.0, found.group()) if found else (0.0, "")
