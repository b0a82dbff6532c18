"""Which language a text is written in, told offline (py3langid, after Lui & Baldwin 2012)."""

from __future__ import annotations

from functools import cache
from typing import Any

from luthier.supplies import library, shipped

LANGUAGES: dict[str, str] = shipped("luthier.data", "languages.yaml")
"""ISO 639 codes of the languages that are told, and their names."""


def language(text: str) -> tuple[str, float]:
    """ISO 639-1 code of a text, and how likely it is, in [0, 1]; ("", 0) where there are no letters.

    Raises:
        MissingExtra: the library is not installed.
    """
    return max(languages(text).items(), key=lambda found: found[1], default=("", 0.0))


def languages(text: str) -> dict[str, float]:
    """How likely each language is; nothing where there are no letters. Raises as `language` does."""
    identifier = _identifier()
    return dict(identifier.rank(text)) if any(map(str.isalpha, text)) else {}


@cache
def _identifier() -> Any:
    langid = library("py3langid.langid", "telling languages", "data", called="py3langid")
    found = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    found.set_languages([code for code in found.nb_classes if code in LANGUAGES])  # rare ones take what is common's
    return found
