"""Which language a text is written in, told offline (py3langid, after Lui & Baldwin 2012)."""

from __future__ import annotations

from functools import cache
from typing import Any

from luthier.errors import MissingExtra

LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian",
    "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French", "fy": "Frisian", "ga": "Irish", "gd": "Gaelic",
    "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hsb": "Upper Sorbian", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian",
    "kk": "Kazakh", "ko": "Korean", "lb": "Luxembourgish", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian",
    "mn": "Mongolian", "ms": "Malay", "my": "Burmese", "nb": "Norwegian", "ne": "Nepali", "nl": "Dutch",
    "nn": "Nynorsk", "pa": "Punjabi", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
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
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra("telling languages", "py3langid", "data") from None
    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages([code for code in found.nb_classes if code in LANGUAGES])  # rare ones take what is common's
    return found
